"""The streams of events that Gradio's pages listen to, kept open over the moments in which an answer would be lost.

Gradio's server ends a page's stream when no event of the page is pending. A page that begins an event in that moment
still takes the stream for open, does not open another one, and waits for ever: what was typed is never sent, as people
see it (Gradio 6.31; two of 56 prompts that were sent at once). So a stream lasts a while longer here. An event that
begins meanwhile goes on in it; one that begins just after its end is answered when the page knows of the end.

While a stream is open, more than Gradio's own events can go to the page in it: see `Listener.tell`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STREAM: Final = "/queue/data"
_JOIN: Final = "/queue/join"
# So long a stream stays open without a pending event, and so long its end takes to reach the page, in seconds.
_LONGER: Final = 2.0
_ON_ITS_WAY: Final = 0.5
# A page that listens no more is forgotten after so many.
_KEPT: Final = 60.0
# A page opens its stream so soon after the event for which it does so, at the latest.
_OPENS: Final = 10.0
# As Gradio writes them: the quotes of what people write are escaped, so none of it looks like this.
_COMPLETED: Final = b'"msg":"process_completed"'
_CLOSING: Final = b'"msg":"close_stream"'


class _Joined(msgspec.Struct):
    """What matters here of a request that begins an event."""

    session_hash: str | None = None


@dataclass
class Listener:
    """One page: how many of its events are pending, which stream is open, and when its last one was ended.

    An event may be completed before the answer to its beginning is on the way: `pending` is below zero for that moment.
    """

    pending: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float = -_ON_ITS_WAY
    used_at: float = field(default_factory=time.monotonic)
    streams: int = 0
    _stream: Send | None = None
    _opened: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self, stream: Send) -> None:
        """What is told from now on goes there."""
        self._stream = stream
        self._opened.set()

    def close(self, stream: Send) -> None:
        """Nothing goes there any more."""
        if self._stream is stream:
            self._stream = None
            self._opened.clear()

    async def listens(self) -> bool:
        """Whether the page can be told something. It may be about to open its stream."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._opened.wait(), _OPENS)
        return self._stream is not None

    async def tell(self, event: bytes) -> bool:
        """Send a server-sent event to the page, as fast as it takes them; False: it does not listen any more."""
        if self._stream is None:
            return False
        await self._stream({"type": "http.response.body", "body": event, "more_body": True})
        return True


class Listeners:
    """The pages that listen, by the name that Gradio gives to each of them (its session hash)."""

    def __init__(self) -> None:
        self._known: dict[str, Listener] = {}

    def knows(self, name: str) -> bool:
        """Whether a page of that name was seen lately."""
        return name in self._known

    def find(self, name: str) -> Listener:
        """The page of that name, seen for the first time or again."""
        now = time.monotonic()
        for each in [each for each, known in self._known.items() if not known.streams and now - known.used_at > _KEPT]:
            del self._known[each]
        listener = self._known.setdefault(name, Listener())
        listener.used_at = now
        return listener


class Streams:
    """ASGI middleware around Gradio."""

    def __init__(self, app: ASGIApp, listeners: Listeners) -> None:
        self._app = app
        self._listeners = listeners

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        path: str = scope.get("path", "")
        if scope["type"] == "http" and scope["method"] == "GET" and path.endswith(_STREAM):
            name = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
            await self._stream(name, scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and path.endswith(_JOIN):
            await self._join(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()

        async def read() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                listener = self._listeners.find(name_in(body))
                listener.pending += 1
                listener.news.set()
                await asyncio.sleep(listener.ended_at + _ON_ITS_WAY - time.monotonic())
            await send(message)

        await self._app(scope, read, answer)

    async def _stream(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One answer to the page, made of as many of Gradio's as it takes."""
        listener = self._listeners.find(name)
        listener.streams += 1
        begun = False
        last: list[Message] = []

        async def pass_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                if begun:
                    return
                begun = True
                await send(message)
                if message["status"] == 200:
                    listener.open(send)
                return
            chunk: bytes = message.get("body", b"")
            listener.pending -= chunk.count(_COMPLETED)
            if last or _CLOSING in chunk:
                last.append(message)
            else:
                await send(message)

        try:
            while True:
                last.clear()
                await self._app(scope, receive, pass_on)
                if not last:  # it ended otherwise: the page has left, or the server ends
                    listener.pending = 0
                    return
                if listener.pending <= 0 and not await _begins(listener, receive):
                    break
            listener.close(send)
            listener.ended_at = time.monotonic()
            for message in last:
                await send(message)
        finally:
            listener.streams -= 1
            listener.close(send)


def name_in(body: bytes | bytearray) -> str:
    """Which page begins an event, by the request for it."""
    try:
        return msgspec.json.decode(body, type=_Joined).session_hash or ""
    except msgspec.DecodeError:
        return ""


async def _begins(listener: Listener, receive: Receive) -> bool:
    """Whether an event begins while the stream is kept open, and the page is there."""
    listener.news.clear()
    waits = {asyncio.ensure_future(listener.news.wait()), asyncio.ensure_future(_left(receive))}
    try:
        await asyncio.wait(waits, timeout=_LONGER, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return listener.pending > 0


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
