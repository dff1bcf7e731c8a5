"""From what the engine's thread reports to the events of one step, on the event loop's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mesh.engine.base import Event, Failed, Step
from mesh.engine.output import OutputTracker
from mesh.engine.transformers.core import NewToken, Report
from mesh.engine.transformers.scheduling.sequence import Work
from mesh.engine.transformers.thread import Command
from mesh.errors import ErrorKind, MeshError

log = logging.getLogger(__name__)


class Reporter:
    """Holds the trackers of all live requests. `call` sends a command to the engine's thread.

    A stop string is seen here only, so its row may have computed a token more, which is dropped: the thread is told to
    let the row go, and gets the token's credit back.
    """

    def __init__(self, call: Callable[[Command], None]) -> None:
        self._call = call
        self._trackers: dict[int, OutputTracker] = {}
        self._refunds: set[int] = set()

    def __contains__(self, key: int) -> bool:
        return key in self._trackers

    def add(self, tracker: OutputTracker, *, refund: bool) -> None:
        """Report a request from now on; `refund` if it lives on credit."""
        self._trackers[tracker.key] = tracker
        if refund:
            self._refunds.add(tracker.key)

    def discard(self, key: int) -> bool:
        """Report nothing more of a request; False if it was not live."""
        self._refunds.discard(key)
        return self._trackers.pop(key, None) is not None

    def step(self, report: Report) -> Step:
        """The events of a step, in order."""
        events: list[Event] = []
        for work in report.started:
            if tracker := self._trackers.get(work.key):
                self._start(events, tracker, work)
        for token in report.tokens:
            if tracker := self._trackers.get(token.key):
                self._push(events, tracker, token, report.now)
        if report.broken:
            broken = MeshError(ErrorKind.ENGINE_FAILED, "the engine has broken down")
            report.failures = [(key, broken) for key in self._trackers]
        for key, failure in report.failures:
            if self.discard(key):
                events.append(Failed(key, failure))
        return Step(report.number, events, report.load)

    def _start(self, events: list[Event], tracker: OutputTracker, work: Work) -> None:
        tracker.started(events, work.first_step or 0.0, cached_tokens=work.cached_tokens, prompt_scores=work.scores)
        if tracker.finished:
            self.discard(work.key)

    def _push(self, events: list[Event], tracker: OutputTracker, token: NewToken, now: float) -> None:
        dropped = tracker.ended(token.choice)
        try:
            over = tracker.push(events, token.choice, token.token_id, now, token.logprob)
        except Exception:
            log.exception("the output of a request could not be reported")
            self._fail(events, token.key)
            return
        if not over and not token.ended:
            return
        self._settle(events, token, over=over, dropped=dropped, finished=tracker.finished)

    def _settle(self, events: list[Event], token: NewToken, *, over: bool, dropped: bool, finished: bool) -> None:
        """A choice has ended, here, on the engine's thread, or on both sides."""
        key, choice = token.key, token.choice
        if dropped and key in self._refunds:
            self._call(lambda core: core.grant(key, 1))
        if finished:
            self.discard(key)
        if token.ended and not over:
            log.error("the engine ended choice %d, its output did not", choice)
            self._fail(events, key)
        elif not token.ended and not dropped:
            self._call(lambda core: core.end_choice(key, choice))

    def _fail(self, events: list[Event], key: int) -> None:
        self.discard(key)
        self._call(lambda core: core.cancel(key))
        events.append(Failed(key, MeshError(ErrorKind.ENGINE_FAILED, "the output could not be reported")))
