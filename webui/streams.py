"""The streams of events that Gradio's pages listen to, kept open over the moments in which an answer would be lost.

Gradio's server ends a page's stream when no event of the page is pending. A page that begins an event in that moment
still takes the stream for open, does not open another one, and waits for ever: what was typed is never sent, as people
see it (Gradio 6.31; two of 56 prompts that were sent at once). So a stream lasts a while longer here. An event that
begins meanwhile goes on in it; one that begins just after its end is answered when the page knows of the end.
"""

from __future__ import annotations

import asyncio
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
# As Gradio writes them: the quotes of what people write are escaped, so none of it looks like this.
_COMPLETED: Final = b'"msg":"process_completed"'
_CLOSING: Final = b'"msg":"close_stream"'


class _Joined(msgspec.Struct):
    """What matters here of a request that begins an event."""

    session_hash: str | None = None


@dataclass
class _Session:
    """One page: how many of its events are pending, and when its last stream was ended.

    An event may be completed before the answer to its beginning is on the way: `pending` is below zero for that moment.
    """

    pending: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float = -_ON_ITS_WAY
    used_at: float = field(default_factory=time.monotonic)
    streams: int = 0


class Streams:
    """ASGI middleware around Gradio."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._sessions: dict[str, _Session] = {}

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
                session = self._session(_name_in(body))
                session.pending += 1
                session.news.set()
                await asyncio.sleep(session.ended_at + _ON_ITS_WAY - time.monotonic())
            await send(message)

        await self._app(scope, read, answer)

    async def _stream(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One answer to the page, made of as many of Gradio's as it takes."""
        session = self._session(name)
        session.streams += 1
        begun = False
        last: list[Message] = []

        async def pass_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                if begun:
                    return
                begun = True
            chunk: bytes = message.get("body", b"")
            session.pending -= chunk.count(_COMPLETED)
            if last or _CLOSING in chunk:
                last.append(message)
            else:
                await send(message)

        try:
            while True:
                last.clear()
                await self._app(scope, receive, pass_on)
                if not last:  # it ended otherwise: the page has left, or the server ends
                    session.pending = 0
                    return
                if session.pending <= 0 and not await _begins(session, receive):
                    break
            session.ended_at = time.monotonic()
            for message in last:
                await send(message)
        finally:
            session.streams -= 1

    def _session(self, name: str) -> _Session:
        now = time.monotonic()
        for each in [
            each for each, known in self._sessions.items() if not known.streams and now - known.used_at > _KEPT
        ]:
            del self._sessions[each]
        session = self._sessions.setdefault(name, _Session())
        session.used_at = now
        return session


def _name_in(body: bytearray) -> str:
    try:
        return msgspec.json.decode(body, type=_Joined).session_hash or ""
    except msgspec.DecodeError:
        return ""


async def _begins(session: _Session, receive: Receive) -> bool:
    """Whether an event begins while the stream is kept open, and the page is there."""
    session.news.clear()
    waits = {asyncio.ensure_future(session.news.wait()), asyncio.ensure_future(_left(receive))}
    try:
        await asyncio.wait(waits, timeout=_LONGER, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return session.pending > 0


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
