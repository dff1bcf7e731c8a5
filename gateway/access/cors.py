"""Which web pages may read the gateway's answers: CORS, off unless origins are set.

A preflight carries no key, so it is answered before keys are asked for. Answers never allow credentials: keys travel in
a header of their own, and a browser's cookies mean nothing here.
"""

from __future__ import annotations

from collections.abc import Collection

from quart import Quart, Response, request

from gateway.exchange import current

ANY = "*"
_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
_PREFLIGHT_SECONDS = 600
_EXPOSED = (
    "x-request-id",
    "x-mesh-trace",
    "x-mesh-model",
    "x-mesh-fallback",
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    *(f"x-ratelimit-{kind}-{of}" for of in ("requests", "tokens") for kind in ("limit", "remaining", "reset")),
)


class Cors:
    """`origins`, such as https://chat.example.org, may read answers; `*` is every origin."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def attach(self, app: Quart) -> None:
        """Mark the answers of an application; to be called before any guard is attached."""
        app.before_request(self._preflight)
        app.after_request(self._after_request)

    async def _preflight(self) -> Response | None:
        """The answer to a browser that asks before it sends; to refuse is to name no origin."""
        if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
            return None
        response = Response(status=204)
        if self._allowed() is not None:
            response.headers["access-control-allow-methods"] = _METHODS
            asked = request.headers.get("access-control-request-headers")
            if asked:
                response.headers["access-control-allow-headers"] = asked
            response.headers["access-control-max-age"] = str(_PREFLIGHT_SECONDS)
        current().route = "preflight"
        return response

    async def _after_request(self, response: Response) -> Response:
        if ANY not in self._origins:
            response.headers.add("vary", "Origin")
        allowed = self._allowed()
        if allowed is not None:
            response.headers["access-control-allow-origin"] = allowed
            response.headers["access-control-expose-headers"] = ", ".join(_EXPOSED)
        return response

    def _allowed(self) -> str | None:
        """The value of access-control-allow-origin, if the request's origin has one."""
        if ANY in self._origins:
            return ANY
        origin = request.headers.get("origin")
        return origin if origin in self._origins else None
