"""A live stream of a worker: one request of one client. Its sink is what serves that client: a session, which has many
streams, or a plain call."""

from __future__ import annotations

import time
from asyncio import TimerHandle
from typing import Protocol

from mesh.engine.base import Delta, Event, ModelInfo, Step
from mesh.errors import MeshError
from mesh.trace import Span


class Sink(Protocol):
    """Serves the events of its streams to a client. Methods are quick and never wait."""

    def add(self, stream: Stream, event: Event) -> None:
        """Take an event of a stream."""
        ...

    def fail(self, stream: Stream, error: MeshError) -> None:
        """Take the end of a stream that broke outside the engine's steps."""
        ...

    def flush(self, step: Step) -> None:
        """Send what was taken: all events of this step are there."""
        ...

    def drain(self) -> None:
        """Tell the client, if there is a way to, that the worker takes no more streams."""
        ...

    def undrain(self) -> None:
        """Tell it that the worker takes streams again."""
        ...


class Kept:
    """What a stream needs to outlive its client: all its events, under a key that the client's next gateway knows.

    `allowed`: tokens that the engine was ever allowed; `repay`: granted tokens that the engine does not get, since they
    are for events that were sent once more.
    """

    __slots__ = ("allowed", "events", "key", "repay", "seconds", "timer")

    def __init__(self, key: bytes, seconds: float, allowed: int) -> None:
        self.key = key
        self.seconds = seconds
        self.events: list[Event] = []
        self.allowed = allowed
        self.repay = 0
        self.timer: TimerHandle | None = None

    @property
    def tokens(self) -> int:
        """Tokens in its events, as credit counts them."""
        return sum(len(event.token_ids) or 1 for event in self.events if type(event) is Delta)

    def grant(self, tokens: int) -> int:
        """How many of the tokens that a client allows are for the engine."""
        repaid = min(tokens, self.repay)
        self.repay -= repaid
        self.allowed += tokens - repaid
        return tokens - repaid

    def replay(self, credit: int) -> int:
        """All events go to a new client, outside of its credit: how many more tokens the engine may now make."""
        self.repay = self.tokens
        more = max(0, credit - (self.allowed - self.repay))
        self.allowed += more
        return more

    def stop_timer(self) -> None:
        """Somebody is there again."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Stream:
    """See the module. `stream_id` is the sink's own number for it; `kept` is set if it may outlive its client."""

    __slots__ = (
        "attempt",
        "began_at",
        "early_credit",
        "kept",
        "key",
        "live",
        "model",
        "request_id",
        "sink",
        "span",
        "steps_before",
        "stream_id",
        "submitted",
    )

    def __init__(self, key: int, sink: Sink, stream_id: int) -> None:
        self.key = key
        self.sink = sink
        self.stream_id = stream_id
        self.model: ModelInfo | None = None  # known once it is submitted, and so to all of its events
        self.live = True
        self.submitted = False
        self.early_credit = 0  # granted before the engine knew the request
        self.kept: Kept | None = None
        # What its line in the log tells.
        self.request_id = ""
        self.attempt = 0
        self.began_at = time.monotonic()
        # Where traces are exported: its span, and the engine's steps when it came.
        self.span: Span | None = None
        self.steps_before = 0

    @property
    def fingerprint(self) -> str:
        """The model's, once it is known."""
        return self.model.fingerprint if self.model is not None else ""
