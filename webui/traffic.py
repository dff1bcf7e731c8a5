"""How much may come from one visitor and from one network: events, open streams, uploads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.doors import JOIN, UPLOAD, refusal
from webui.pages.desk import COOKIE
from webui.scratch import Scratch
from webui.streams import Listeners, name_in
from webui.trust.limits import Buckets, Quota, network, waiting

_STREAMS: Final = ("/gradio_api/queue/data", "/gradio_api/heartbeat/", "/gradio_api/upload_progress")
_MIB: Final = 1024**2
_HOUR: Final = 60  # minutes
_NAME: Final = 64  # characters


@dataclass(frozen=True, slots=True)
class TrafficLimits:
    """`uploads` and `upload_bytes` of one visitor an hour, of one network five times as many.

    The others are of one network: `events` a minute (a prompt is three of them), new `pages` a minute, and open
    `streams` (a page has two).
    """

    uploads: int = 60
    upload_bytes: int = 100 * _MIB
    events: int = 1200
    pages: int = 120
    streams: int = 400


class Traffic:
    """ASGI middleware, within Doors. The counts are in its memory, and start anew with it."""

    def __init__(self, app: ASGIApp, listeners: Listeners, scratch: Scratch, limits: TrafficLimits) -> None:
        self._app = app
        self._listeners = listeners
        self._scratch = scratch
        self._limits = limits
        self._events = Buckets(limits.events, limits.events / 2)
        self._pages = Buckets(limits.pages, limits.pages)
        self._streams: Counter[str] = Counter()
        self._uploads = Quota(limits.uploads / _HOUR, limits.uploads)
        self._bytes = Quota(limits.upload_bytes / _HOUR, limits.upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif path == JOIN:
            await self._event(scope, receive, send)
        elif path == UPLOAD:
            await self._upload(scope, receive, send)
        elif path.startswith(_STREAMS):
            await self._stream(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _event(self, scope: Scope, receive: Receive, send: Send) -> None:
        where = _network(scope)
        wait = self._events.take(where)
        if not wait:
            body = await Request(scope, receive).body()
            page = name_in(body)
            if len(page) > _NAME:
                await refusal(scope, f"session_hash has more than {_NAME} characters.", 400)(scope, receive, send)
                return
            receive = _again(body, receive)
            wait = 0.0 if self._listeners.knows(page) else self._pages.take(where)
        if wait:
            told = f"Too much comes from your network: please wait {waiting(wait)} and try again."
            await refusal(scope, told, 429, wait)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        where = _network(scope)
        if self._streams[where] >= self._limits.streams:
            told = "Too many pages are open in your network: close some and load this one again."
            await refusal(scope, told, 429)(scope, receive, send)
            return
        self._streams[where] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams[where] -= 1
            if not self._streams[where]:
                del self._streams[where]

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        visitor = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        size = int(headers["content-length"])
        if not visitor:
            await refusal(scope, "Load the page first, and allow its cookie.", 403)(scope, receive, send)
            return
        where = _network(scope)
        wait = self._uploads.take(visitor, where) or self._bytes.take(visitor, where, size)
        if wait:
            most = f"{self._limits.uploads} images and {self._limits.upload_bytes / _MIB:.3g} MiB"
            told = f"At most {most} an hour are taken: please wait {waiting(wait)}."
            await refusal(scope, told, 429, wait)(scope, receive, send)
            return
        async with self._scratch.room(size) as there:
            if there:
                await self._app(scope, receive, send)
                return
        told = "There is no room for more images just now: please try again later, or ask without one."
        await refusal(scope, told, 507)(scope, receive, send)


def _network(scope: Scope) -> str:
    return network((scope.get("client") or ("", 0))[0])


def _again(body: bytes, receive: Receive) -> Receive:
    """A request whose body has been read."""
    unread = [body]

    async def read() -> Message:
        return {"type": "http.request", "body": unread.pop()} if unread else await receive()

    return read
