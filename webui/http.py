"""What goes around the pages in HTTP: the visitor's cookie, and headers that keep a page to itself."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
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
    """ASGI middleware around all pages.

    `proxies` are believed: the client is who they say (the last entry of X-Forwarded-For), whether it came by HTTPS
    (X-Forwarded-Proto), and who has signed in (`user_header`). From anybody else that header is taken away.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str] = (), user_header: str | None = None) -> None:
        self._app = app
        self._proxies = frozenset(proxies)
        self._user_header = (user_header or "").lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._know_client(scope)
        fresh = not _has_cookie(Headers(scope=scope).get("cookie", ""))
        secure = "; Secure" if scope["scheme"] == "https" else ""

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]  # Gradio lets the scripts of all sites read what it answers
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "SAMEORIGIN"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=()"
                headers["Referrer-Policy"] = "same-origin"
                if fresh and headers.get("content-type", "").startswith("text/html"):
                    cookie = f"{COOKIE}={secrets.token_urlsafe(24)}; Max-Age={_YEAR}; Path=/; HttpOnly; SameSite=Lax"
                    headers.append("Set-Cookie", cookie + secure)
            await send(message)

        await self._app(scope, receive, send_more)

    def _know_client(self, scope: Scope) -> None:
        """Replace what a proxy tells, or what nobody may tell."""
        peer = (scope.get("client") or ("", 0))[0]
        if peer not in self._proxies:
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != self._user_header]
            return
        headers = Headers(scope=scope)
        if headers.get("x-forwarded-proto", "").rpartition(",")[2].strip() == "https":
            scope["scheme"] = "https"
        forwarded = headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        if forwarded:
            scope["client"] = (forwarded, 0)


def _has_cookie(header: str) -> bool:
    # Read as the pages read it: SimpleCookie stops at the first cookie of others that is not to its taste.
    return bool(cookie_parser(header).get(COOKIE))
