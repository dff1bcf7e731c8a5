"""Signs of life in a stream that has nothing to say yet."""

from __future__ import annotations

import asyncio
import time

from gateway.exchange import Exchange

COMMENT = b": keep-alive\n\n"  # clients skip it
PING = b'event: ping\ndata: {"type":"ping"}\n\n'  # the same in Anthropic's API


class KeepAlive:
    """Writes a sign to the client's connection for each `seconds` (0: never) without tokens, until it is closed.

    It goes past the body's generator, as tokens do, since that waits for these. A stream's parts are whole events, so
    it may come between any two. The head of the stream must be out.
    """

    def __init__(self, exchange: Exchange, seconds: float) -> None:
        self._exchange = exchange
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        if seconds and exchange.connection is not None:
            self._wait(seconds)

    def close(self) -> None:
        """Write no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    def _tick(self) -> None:
        """A token since the last time puts it off: tokens themselves touch no timer."""
        silent = time.monotonic() - (self._exchange.last_token_at or 0)
        if silent < self._seconds:
            self._wait(self._seconds - silent)
            return
        connection = self._exchange.connection
        if connection is not None and connection.ready():
            connection.write(PING if self._exchange.anthropic else COMMENT)
        self._wait(self._seconds)
