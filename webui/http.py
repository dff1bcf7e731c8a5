"""What goes around the pages in HTTP: the visitor's cookie, and headers that keep a page to itself."""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.pages.desk import COOKIE

_YEAR: Final = 365 * 24 * 3600
# Gradio's own scripts and styles are inline. Nothing is loaded from elsewhere, whatever a model writes.
_POLICY: Final = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "connect-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)


class Frontier:
    """ASGI middleware around all pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fresh = not _has_cookie(Headers(scope=scope).get("cookie", ""))
        secure = "; Secure" if scope["scheme"] == "https" else ""

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                if fresh and headers.get("content-type", "").startswith("text/html"):
                    cookie = f"{COOKIE}={secrets.token_urlsafe(24)}; Max-Age={_YEAR}; Path=/; HttpOnly; SameSite=Lax"
                    headers.append("Set-Cookie", cookie + secure)
            await send(message)

        await self._app(scope, receive, send_more)


def _has_cookie(header: str) -> bool:
    try:
        return COOKIE in SimpleCookie(header)
    except CookieError:
        return False
