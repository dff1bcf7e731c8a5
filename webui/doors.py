"""What of the web server is open at all: the addresses that the pages use, to requests of the pages themselves.

Gradio's server has many more addresses: one fetches URLs for whoever asks, one hands out the session of who has signed
in, one ends the events of others. And it lets in the scripts of all other sites (Gradio 6.31), in the name of the
visitor whose browser runs them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.pages.plain import plain
from webui.trust.images import ImageLimits

_READ: Final = re.compile(
    r"""/(?:config|healthz|login|logout|assets/.*|static/.*|theme\.css|favicon\.ico|manifest\.json|robots\.txt
    |gradio_api/(?:queue/data|heartbeat/[^/]*|upload_progress|startup-events|app_id|file=(?!\w+:/).*))""",
    re.VERBOSE,
)
UPLOAD: Final = "/gradio_api/upload"
JOIN: Final = "/gradio_api/queue/join"
_KIB: Final = 1024
# Bytes of what may be sent where: an image with what goes around it, an event with a prompt, a name and a password.
_WRITTEN: Final = {UPLOAD: ImageLimits().bytes + 64 * _KIB, JOIN: 4 * _KIB**2, "/login": 8 * _KIB}
# All of it is here after so many seconds, or it is not waited for.
_PATIENCE: Final = 120.0
_TRUSTED: Final = ("same-origin", "none")


class Doors:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, pages: Collection[str], patience: float = _PATIENCE) -> None:
        """`pages`: their names, of which one is empty. `patience`: seconds until all of a request has to be here."""
        self._app = app
        self._pages = frozenset(f"/{name}" for name in pages)
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        closed = None if self._is_page(scope) else _closed(scope)
        if closed is not None:
            await closed(scope, receive, send)
        elif scope["method"] == "POST":
            await self._app(scope, _within(receive, self._patience), send)
        else:
            await self._app(scope, receive, send)

    def _is_page(self, scope: Scope) -> bool:
        return scope["method"] in ("GET", "HEAD") and scope["path"] in self._pages


def _closed(scope: Scope) -> Response | None:
    """Why a request is not let in."""
    path, method = scope["path"], scope["method"]
    if method in ("GET", "HEAD"):
        return None if _READ.fullmatch(path) else _nothing_here()
    if method != "POST" or path not in _WRITTEN:
        return refusal(scope, "There is nothing to send here.", 404)
    headers = Headers(scope=scope)
    if _from_elsewhere(headers):
        return refusal(scope, "Other sites may not act for their visitors here.", 403)
    length, most = headers.get("content-length", ""), _WRITTEN[path]
    if not length.isdecimal():
        return refusal(scope, "How long it is must be said (Content-Length).", 411)
    if int(length) > most:
        return refusal(scope, f"This is too large: at most {most // _KIB:,} KiB are taken at once.", 413)
    return None


def _from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that a page of another site has sent it. Browsers say so over HTTPS, and on localhost."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in _TRUSTED
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def refusal(scope: Scope, why: str, status: int, wait: float | None = None) -> Response:
    """An answer whose words Gradio's pages show: of events from a field, of uploads as they are."""
    headers = None if wait is None else {"Retry-After": str(max(1, round(wait)))}
    if scope["path"] == JOIN:
        return JSONResponse({"detail": why}, status, headers)
    return PlainTextResponse(why, status, headers)


def _nothing_here() -> Response:
    body = '<p>There is no such page. <a href="./">Go to the first one</a>.</p>'
    return HTMLResponse(plain("Not found", body), 404)


def _within(receive: Receive, seconds: float) -> Receive:
    """A request whose sender has left when it is not complete by then."""
    end = time.monotonic() + seconds
    complete = False

    async def read() -> Message:
        nonlocal complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout(end - time.monotonic()):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        complete = not message.get("more_body", False)
        return message

    return read
