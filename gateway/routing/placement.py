"""Where the next attempt of a request goes: to a worker that has not had it yet, or that has none better beside it.

A worker is told apart by the epoch of its session: one that came back is another place than the one that was left. One
that refused for want of room is asked again when it has some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.routing import balance, clock
from gateway.routing.claim import Claim
from gateway.routing.dispatch import Dispatch
from gateway.routing.prefix import Prompt
from gateway.routing.room import has_room
from gateway.routing.session import Session
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb


class Placement:
    """The places of one request. `needs` is what a worker must be able to do for it, and `live` tells the workers that
    can take it as far as it has come. `roomless`: it takes no place in a worker's steps. Close it.

    `begun`: its client has seen something of the answer.
    """

    def __init__(
        self,
        prompt: Prompt,
        dispatch: Dispatch,
        needs: frozenset[pb.Capability],
        live: Callable[[], Sequence[Session]],
        claim: Claim,
        *,
        roomless: bool = False,
    ) -> None:
        self.begun = False
        self._prompt = prompt
        self._model = prompt.model
        self._dispatch = dispatch
        self._needs = needs
        self._candidates = live
        self._roomless = roomless
        self._place = dispatch.queue.place(prompt.model, claim)
        # The request goes on where it is by so many tokens, and the time to find a worker begins anew with the next
        # fault.
        self.progress = self._place.progress
        # Epochs that were left, with the worker's own refusal if there was one.
        self._tried: dict[int, MeshError | None] = {}
        self._impostors: set[int] = set()
        self._avoided: set[str] = set()

    async def find(self, start: Callable[[Session], None]) -> None:
        """Let `start` begin the next attempt on a worker, now or when it is this request's turn. Raises MeshError if
        there is no worker with room in time, or if each has refused for another reason."""
        await self._place.turn(
            self._wanted,
            lambda free: start(self._pick(free)),
            urgent=self.begun or self._roomless,
            begun=self.begun,
        )

    def second(self, here: Session, model_of: Callable[[Session], str]) -> Session | None:
        """A worker with a free place beside this one, which serves the same model; None if there is none now."""
        now, model = clock.now(), model_of(here)
        free = [each for each in self._fresh(self._live()) if each is not here and model_of(each) == model]
        free = [each for each in free if now >= each.full_until and has_room(each, 0)]
        if not free:
            return None
        session = balance.least_loaded(self._preferred(free))
        self._dispatch.outliers.picked(session)
        return session

    def left(self, session: Session, error: MeshError, *, refused: bool) -> None:
        """An attempt there is over. One that cannot go on with the model that has begun is not asked again."""
        if refused and error.kind is ErrorKind.OVERLOADED:
            session.refused()
            self._place.refused(error)
            return
        self._tried[session.epoch] = error if refused else None
        if self.begun and error.kind is ErrorKind.WRONG_MODEL:
            self._impostors.add(session.epoch)

    def avoid(self, session: Session) -> None:
        """The worker failed this request, and goes last: one that starts and dies again and again is always fresh, and
        idle besides."""
        self._avoided.add(session.worker_id)

    def began(self, session: Session, prompt_tokens: int) -> None:
        """The first sign of an answer has come, whose prompt took so much work."""
        self.begun = True
        session.accepted()
        self._place.began(prompt_tokens)

    def elsewhere(self, here: Session) -> bool:
        """Whether there is another place than this one."""
        return any(session is not here for session in self._fresh(self._live()))

    def abort(self, error: MeshError) -> None:
        """Let `find` raise this error, now or when it is called."""
        self._place.abort(error)

    def close(self) -> None:
        """The end of the request. Once."""
        self._place.close()

    def _wanted(self) -> Sequence[Session]:
        """Workers that may be asked, whether they have room or not. Raises MeshError if there is no hope for any."""
        live = self._live()
        # A worker that seemed frozen and is live again beats none.
        wanted = self._fresh(live) or [session for session in live if self._tried.get(session.epoch) is None]
        if wanted:
            return wanted
        refusals = [error for session in live if (error := self._tried.get(session.epoch)) is not None]
        if refusals:
            raise refusals[-1]
        if not self.begun:
            self._dispatch.directory.check_known(self._model)
            self._dispatch.directory.check_can(self._model, self._needs)
        return ()

    def _pick(self, sessions: Sequence[Session]) -> Session:
        session = self._dispatch.balancer.pick(self._prompt, self._preferred(sessions))
        self._dispatch.outliers.picked(session)
        return session

    def _preferred(self, sessions: Sequence[Session]) -> Sequence[Session]:
        """Of at least one those that have not failed, as far as there are any."""
        sessions = self._dispatch.outliers.spare(sessions)
        return [session for session in sessions if session.worker_id not in self._avoided] or sessions

    def _live(self) -> list[Session]:
        return [session for session in self._candidates() if session.epoch not in self._impostors]

    def _fresh(self, live: Sequence[Session]) -> list[Session]:
        return [session for session in live if session.epoch not in self._tried]
