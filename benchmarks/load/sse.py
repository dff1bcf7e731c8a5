"""A client for OpenAI's streaming chat that does as little as possible: the load generator must not be the bottleneck.

It counts frames in the raw bytes instead of parsing them; any chat completions server will do.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

_FRAME_END = b"\n\n"
_DONE = b"data: [DONE]"
_LAST_CHUNK = b"0\r\n\r\n"
_CONTENT = re.compile(rb'"content":\s?"[^"]')
# Enough for a head, an error body or a marker that falls on the border of two reads.
_TAIL = 256


@dataclass(slots=True)
class Totals:
    """What all streams of a load have received since its start."""

    frames: int = 0
    bytes: int = 0
    finished: int = 0
    failed: int = 0
    first_failure: str = ""


@dataclass(slots=True)
class Answer:
    """One answer. Times are seconds from sending the request; frames count `data:` events, [DONE] among them."""

    first_token: float
    duration: float
    frames: int


class Failed(Exception):
    """The server did not stream an answer to its end."""


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that carries one answer at a time."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._on_first: Callable[[], None] | None = None
        self._tail: bytes = b""
        self._sent_at = 0.0
        self._first_token = 0.0
        self._frames = 0
        self._status_known = False

    async def ask(self, request: bytes, on_first_token: Callable[[], None] | None = None) -> Answer:
        """Send one request and wait for the end of its answer. Raises Failed."""
        if self._transport is None:
            raise Failed("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._on_first = on_first_token
        self._tail, self._frames, self._first_token, self._status_known = b"", 0, 0.0, False
        self._sent_at = perf_counter()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"the server closed the connection after {self._frames} frames")

    def data_received(self, data: bytes) -> None:
        self._totals.bytes += len(data)
        window = self._tail + data
        if not self._status_known and not self._check_status(window):
            self._tail = window[-4096:]
            return
        # A frame end that lies in the tail alone was counted before; one on the border was not.
        frames = window.count(_FRAME_END) - self._tail.count(_FRAME_END)
        self._frames += frames
        self._totals.frames += frames
        if not self._first_token and _CONTENT.search(window):
            self._first_token = perf_counter() - self._sent_at
            if self._on_first is not None:
                self._on_first()
        if window.endswith(_LAST_CHUNK):
            if _DONE in window:
                self._finish()
            else:
                said = " ".join(window.decode("utf-8", "replace").split())
                self._fail(f"an end without [DONE] after {self._frames} frames: {said}")
        self._tail = window[-_TAIL:]

    def _check_status(self, head: bytes) -> bool:
        if b"\r\n\r\n" not in head:
            return False
        if head.startswith(b"HTTP/1.1 200"):
            self._status_known = True
            return True
        self._fail(head.decode("utf-8", "replace"))
        self.close()
        return False

    def _finish(self) -> None:
        self._totals.finished += 1
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._first_token, perf_counter() - self._sent_at, self._frames))

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._totals.failed += 1
            self._totals.first_failure = self._totals.first_failure or reason
            self._answer.set_exception(Failed(reason))


async def connect(host: str, port: int, totals: Totals) -> Connection:
    """Open a connection; waits 10 s at most."""
    async with asyncio.timeout(10):
        _, protocol = await asyncio.get_running_loop().create_connection(lambda: Connection(totals), host, port)
    return protocol


def chat_request(host: str, model: str, prompt: str, max_tokens: int, **options: Any) -> bytes:
    """The bytes of one streaming chat request."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "stream": True,
            **options,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
