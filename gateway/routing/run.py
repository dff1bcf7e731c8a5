"""An attempt that is under way: its stream on a worker, its line in the trail, its span."""

from __future__ import annotations

from gateway.routing.session import Session
from gateway.routing.stream import Stream
from gateway.routing.trail import Attempt
from mesh.trace import Span

_NO_ERRORS = frozenset({"finished", "cancelled", "draining", "outrun"})


class Run:
    """One attempt. `end` it, once."""

    def __init__(self, stream: Stream[Session], tokens: int, span: Span | None) -> None:
        """It has begun when the answer has so many tokens."""
        self.stream = stream
        self.attempt = Attempt.at(stream.session, tokens)
        self._span = span

    def end(self, outcome: str, tokens: int, *, keep: bool = False) -> None:
        """The answer has so many tokens now. Unless the stream has ended, the worker must forget it, or keep it."""
        self.stream.close(keep=keep)
        attempt = self.attempt
        attempt.end(outcome, tokens)
        if self._span is not None:
            self._span.end(
                error="" if outcome in _NO_ERRORS else outcome,
                outcome=outcome,
                worker=attempt.worker,
                incarnation=attempt.incarnation,
                tokens=attempt.tokens,
            )
