"""The two workers of one request whose first token is late: which of them goes on.

While both are at it, the events of the second are left on its stream, and its news wake the one who waits for the
first. Nobody has seen a token, so either can be dropped without a trace.
"""

from __future__ import annotations

import asyncio

from gateway.routing import clock
from gateway.routing.attempts import Attempts
from gateway.routing.dispatch import Dispatch
from gateway.routing.events import Token
from gateway.routing.hedge import Hedge
from gateway.routing.run import Run
from gateway.routing.session import Session
from gateway.routing.stream import Stream, Trouble
from mesh.answer import Answer, error_of
from mesh.errors import ErrorKind, MeshError


class Race:
    """One request has at most one. `outcome`: what became of it; None if the first token was not late."""

    def __init__(self, model: str, attempts: Attempts, answer: Answer, dispatch: Dispatch) -> None:
        self.outcome: Hedge | None = None
        self._model = model
        self._attempts = attempts
        self._answer = answer
        self._dispatch = dispatch
        # The second attempt, while both are at it.
        self.rival: Run | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, stream: Stream[Session]) -> None:
        """The request has begun there: if the model's first tokens have a limit, count the time from now on."""
        after = self._dispatch.balancer.hedge_after(self._model)
        if not after or self.outcome is not None or not self._hedgeable:
            return
        if len(self._attempts.trail) == 1:
            self._dispatch.hedges.earn(self._model)
        self._timer = asyncio.get_running_loop().call_later(after, self._ask_second, stream)

    @property
    def _hedgeable(self) -> bool:
        """Not if the client has seen a part of it, nor if no token is told before the end."""
        return self._answer.silent and self._answer.steady and not self._attempts.comes_back

    def _ask_second(self, stream: Stream[Session]) -> None:
        """The first token is late: ask a worker with a free place, if there is one and it is not too often."""
        if stream.spoke or not self._answer.silent:
            return
        session = self._attempts.second(stream.session)
        if session is None:
            self._note(Hedge.NO_PLACE)
        elif not self._dispatch.hedges.spend(self._model):
            self._note(Hedge.OVER_BUDGET)
        else:
            self.outcome = Hedge.RUNNING
            self.rival = self._attempts.launch(session)
            self.rival.stream.relay = stream.wake
            stream.wake()

    def settle(self, first: Stream[Session]) -> Run | None:
        """See whether one of the two has brought a token, or the second cannot any more. Returns the second one if it
        was faster; the first is then to be ended. `rival` is None once it is settled."""
        rival = self.rival
        if rival is None:
            return None
        if first.spoke or not self._answer.silent:
            self.stop("outrun")
        elif rival.stream.spoke:
            return self.take_second()
        elif (found := _trouble_of(rival.stream)) is not None:
            self.stop(self._attempts.blame(rival.stream, *found))
        return None

    def take_second(self) -> Run | None:
        """The second one if there is one, from now on the only one."""
        rival, self.rival = self.rival, None
        if rival is not None:
            rival.stream.relay = None
            self._note(Hedge.WON)
        return rival

    def disarm(self) -> None:
        """The first one is over: it has no time limit any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop(self, outcome: str) -> None:
        """End the second one, if there is one."""
        rival, self.rival = self.rival, None
        if rival is not None:
            self._note(Hedge.LOST)
            self._attempts.end(rival, outcome)

    def _note(self, outcome: Hedge) -> None:
        self.outcome = outcome
        self._dispatch.hedges.count(self._model, outcome)


def _trouble_of(stream: Stream[Session]) -> tuple[Trouble, MeshError] | None:
    """Why one that has not spoken never will, if so."""
    if stream.lost is not None:
        return Trouble.LOST, stream.lost
    for event in stream.events:
        if type(event) is not Token and event.HasField("failed"):
            stream.ended = True
            error = error_of(event.failed)
            if error.kind is not ErrorKind.DRAINING:
                return Trouble.REFUSED, error
            stream.session.stop_routing()
            return Trouble.DRAINING, error
    found = stream.session.trouble(stream, clock.now())
    if found is None:
        return None
    return found[0], MeshError(ErrorKind.WORKER_LOST, f"worker '{stream.session.worker_id}' made no progress")
