"""Where the next attempt of a request goes: to a worker that has not had it yet, or that has none better beside it.

A worker is told apart by the epoch of its session: one that came back is another place than the one that was left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.routing import clock
from gateway.routing.dispatch import Dispatch
from gateway.routing.prefix import Prompt
from gateway.routing.session import Session
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb

# Pause before all workers are asked again which have said that they are overloaded, for a request whose client
# already reads and cannot be told to come back.
_OVERLOADED_PAUSE = 0.5


class Placement:
    """The places of one request. `needs` is what a worker must be able to do for it, and `live` tells the workers that
    can take it as far as it has come.

    `error`, once set, is raised instead of choosing. `begun`: its client has seen something of the answer.
    """

    def __init__(
        self,
        prompt: Prompt,
        dispatch: Dispatch,
        needs: frozenset[pb.Capability],
        live: Callable[[], Sequence[Session]],
    ) -> None:
        self.begun = False
        self.error: MeshError | None = None
        self._prompt = prompt
        self._model = prompt.model
        self._dispatch = dispatch
        self._needs = needs
        self._candidates = live
        # Epochs that were left, with the worker's own refusal if there was one.
        self._tried: dict[int, MeshError | None] = {}
        self._impostors: set[int] = set()
        self._avoided: set[str] = set()
        # Until when a worker must be found, while there is none.
        self._deadline: float | None = None

    def left(self, session: Session, error: MeshError, *, refused: bool) -> None:
        """An attempt there is over. One that cannot go on with the model that has begun is not asked again."""
        self._tried[session.epoch] = error if refused else None
        if self.begun and error.kind is ErrorKind.WRONG_MODEL:
            self._impostors.add(session.epoch)

    def avoid(self, session: Session) -> None:
        """The worker failed this request, and goes last: one that starts and dies again and again is always fresh, and
        idle besides."""
        self._avoided.add(session.worker_id)

    def progress(self) -> None:
        """The request goes on where it is: the time to find a worker begins anew with the next fault."""
        self._deadline = None

    def elsewhere(self, here: Session) -> bool:
        """Whether there is another place than this one."""
        return any(session is not here for session in self._fresh(self._live()))

    async def choose(self) -> Session:
        """A worker for the next attempt. Raises MeshError if there is none in time, or if each has refused."""
        if self._deadline is None:
            self._deadline = clock.now() + self._dispatch.hold.timeout
        while True:
            if self.error is not None:
                raise self.error
            live = self._live()
            # A worker that seemed frozen and is live again beats none.
            fresh = self._fresh(live) or [session for session in live if self._tried.get(session.epoch) is None]
            if fresh:
                unspoilt = [session for session in fresh if session.worker_id not in self._avoided]
                return self._dispatch.balancer.pick(self._prompt, unspoilt or fresh)
            left = self._deadline - clock.now()
            if live:
                await self._after_refusals(live, left)
            else:
                await self._held(left)

    def _live(self) -> list[Session]:
        return [session for session in self._candidates() if session.epoch not in self._impostors]

    def _fresh(self, live: Sequence[Session]) -> list[Session]:
        return [session for session in live if session.epoch not in self._tried]

    async def _after_refusals(self, live: Sequence[Session], left: float) -> None:
        """Every live worker has refused: pass the refusal on, or ask again if the client cannot be told to."""
        refusals = [error for session in live if (error := self._tried.get(session.epoch)) is not None]
        busy = [error for error in refusals if error.kind is ErrorKind.OVERLOADED]
        if not self.begun or not busy or left <= 0:
            raise busy[0] if busy else refusals[-1]
        await asyncio.sleep(min(left, _OVERLOADED_PAUSE))
        for session in live:
            self._tried.pop(session.epoch, None)

    async def _held(self, left: float) -> None:
        """Wait in the hold queue until something changes."""
        hold, directory = self._dispatch.hold, self._dispatch.directory
        if not self.begun:
            directory.check_known(self._model)
            directory.check_can(self._model, self._needs)
        with hold.place(begun=self.begun):
            if left > 0 and await directory.changed(self._model, left):
                return
        if self.begun:
            raise MeshError(
                ErrorKind.WORKER_LOST, f"the worker was lost, and within {hold.timeout:g} s none could go on"
            )
        raise MeshError(
            ErrorKind.NO_WORKER,
            f"no live worker for the model '{self._model}' within {hold.timeout:g} s",
            retry_after=hold.timeout,
        )
