"""One attempt of a generation, as its session sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from gateway.routing import clock
from gateway.routing.events import Token
from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb


class Host(Protocol):
    """What a stream asks of its session."""

    def send(self, command: pb.SessionRequest) -> None:
        """Tell the worker."""
        ...

    def forget(self, stream: Stream[Any], *, keep: bool = False) -> None:
        """See Stream.close."""
        ...


Place = TypeVar("Place", bound=Host, covariant=True)


class Trouble(Enum):
    """Why a stream should leave its worker; the values label metrics."""

    LOST = "lost"
    SILENT = "silent"
    STALLED = "stalled"
    FORGOTTEN = "forgotten"
    DRAINING = "draining"
    REFUSED = "refused"
    PROTOCOL = "protocol"


class Stream(Generic[Place]):
    """One attempt's end on a session. The owner takes `events` when `wait` returns; `lost` is final."""

    __slots__ = (
        "_waiter",
        "active_at",
        "confirmed",
        "credit",
        "ended",
        "events",
        "flowing",
        "id",
        "kept",
        "lost",
        "pace",
        "proven",
        "relay",
        "rows",
        "session",
        "strikes",
        "take_at_once",
        "taken",
        "tokens",
    )

    def __init__(
        self,
        session: Place,
        stream_id: int,
        rows: int,
        credit: int | None,
        tokens: int = 0,
        *,
        kept: bool = False,
    ) -> None:
        # Where it runs.
        self.session = session
        self._waiter: asyncio.Future[None] | None = None
        self.id = stream_id
        self.rows = rows
        self.tokens = tokens
        # Whether the worker was asked to keep it for a client that may come back.
        self.kept = kept
        # Tokens that the worker may still send; None is no limit.
        self.credit = credit
        self.events: list[pb.StreamEvent | Token] = []
        # Called while the owner waits and events have come: takes them all and returns True, or leaves them to `wait`.
        self.take_at_once: Callable[[], bool] | None = None
        # Called in place of waking its owner, if that waits for another stream meanwhile.
        self.relay: Callable[[], None] | None = None
        self.lost: MeshError | None = None
        self.ended = False
        self.confirmed = False
        # It has had tokens, and is to get some with every step of the worker; set by the owner.
        self.flowing = False
        # Workers that have died with its request before, tokens that it has had here, and whether these prove that it
        # is harmless; set by the owner.
        self.strikes = 0
        self.taken = 0
        self.proven = False
        # The mean time between its events, in seconds, from the first one on.
        self.pace: float | None = None
        self.active_at = clock.now()

    async def wait(self) -> None:
        """Return when there are events, when the session is lost, or when `trouble` should be looked at."""
        if self.events or self.lost is not None:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Let `wait` return."""
        waiter = self._waiter
        if self.relay is not None:
            self.relay()
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)

    def arrived(self) -> None:
        """There are new events: have them taken at once, or let `wait` return."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            if self.relay is not None:
                self.relay()
            return  # the owner will find them
        if self.take_at_once is None or not self.take_at_once():
            waiter.set_result(None)

    def grant(self, tokens: int) -> None:
        """Allow the worker more tokens."""
        if self.credit is not None and not self.ended:
            self.credit += tokens
            self.active_at = clock.now()
            self.session.send(pb.SessionRequest(credit=pb.StreamCredit(stream_id=self.id, tokens=tokens)))

    def close(self, *, keep: bool = False) -> None:
        """Forget the stream; unless it has ended, the worker is told to, or to keep it if it was started for that. No
        event arrives afterwards."""
        self.session.forget(self, keep=keep)

    @property
    def spoke(self) -> bool:
        """Whether there are events that belong to an answer: more than that it has begun, and no failure."""
        return any(
            type(event) is Token or not (event.HasField("started") or event.HasField("failed")) for event in self.events
        )

    @property
    def starved(self) -> bool:
        """It waits for its reader, not for the worker."""
        return bool(self.events) or (self.credit is not None and self.credit <= 0)
