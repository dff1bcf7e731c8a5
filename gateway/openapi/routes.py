"""GET /openapi.json and /docs. Both tell of the software and of nothing that it serves, so they need no key unless the
settings say otherwise."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import msgspec
from quart import Blueprint, Response

from gateway.openapi.document import document
from gateway.openapi.page import html
from gateway.openapi.table import DOCUMENT, PAGE

# Nothing is fetched from anywhere, and nothing runs.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def openapi_routes(*, keyed: bool, open_routes: Collection[str]) -> Blueprint:
    """The routes. `keyed`: requests need a key but for the open routes."""
    routes = Blueprint("openapi", __name__)

    @cache
    def described() -> bytes:
        return msgspec.json.encode(document(keyed=keyed, open_routes=open_routes))

    @cache
    def page() -> str:
        return html(document(keyed=keyed, open_routes=open_routes))

    @DOCUMENT.on(routes)
    async def openapi_json() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(described(), content_type="application/json")

    @PAGE.on(routes)
    async def docs() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(page(), content_type="text/html; charset=utf-8", headers={"content-security-policy": _POLICY})

    return routes
