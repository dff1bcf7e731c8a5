"""GET /healthz (the process answers), /readyz (it can serve requests, or why not), /metrics and /version.

`/` answers as `/version` does: some clients ask for it by HEAD before anything else.
"""

from __future__ import annotations

from collections import Counter

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from quart import Blueprint, Response

from gateway.access.book import Book
from gateway.exchange import Exchanges
from gateway.operation import Operation
from gateway.processes import Seat
from gateway.routing.directory import Directory
from mesh.metrics import GatewayMetrics
from mesh.version import version


class Health(msgspec.Struct):
    """Body of the health routes."""

    status: str
    reason: str | None = None


class Version(msgspec.Struct):
    """Body of /version, as of vLLM."""

    version: str


HEALTH = Operation(
    method="GET", path="/healthz", summary="Whether the process answers.", group="Operations", answer=Health
)
READY = Operation(
    method="GET",
    path="/readyz",
    summary="Whether requests can be served, or why not.",
    group="Operations",
    answer=Health,
    also={503: "It cannot serve requests now; `reason` says why."},
)
METRICS = Operation(
    method="GET", path="/metrics", summary="Metrics for Prometheus.", group="Operations", gives="text/plain"
)
VERSION = Operation(
    method="GET", path="/version", summary="The software's version.", group="Operations", answer=Version
)
ROOT = Operation(method="GET", path="/", summary="The same.", group="Operations", answer=Version)


def health_routes(
    directory: Directory,
    exchanges: Exchanges,
    metrics: GatewayMetrics,
    book: Book | None = None,
    seat: Seat | None = None,
) -> Blueprint:
    """The routes for probes and scrapers."""
    routes = Blueprint("health", __name__)
    software = Version(version())

    @HEALTH.on(routes)
    async def healthz() -> Response:  # pyright: ignore[reportUnusedFunction]
        return _json(Health("ok"), 200)

    @READY.on(routes)
    async def readyz() -> Response:  # pyright: ignore[reportUnusedFunction]
        reason = _not_ready(directory, exchanges, book)
        return _json(Health("not ready", reason), 503) if reason else _json(Health("ready"), 200)

    @METRICS.on(routes)
    async def metrics_() -> Response:  # pyright: ignore[reportUnusedFunction]
        registry = metrics.registry
        page = generate_latest(registry) if seat is None else await seat.collect(registry)
        return Response(page, content_type=CONTENT_TYPE_LATEST)

    @ROOT.on(routes)
    @VERSION.on(routes)
    async def version_() -> Response:  # pyright: ignore[reportUnusedFunction]
        return _json(software, 200)

    return routes


def _not_ready(directory: Directory, exchanges: Exchanges, book: Book | None) -> str | None:
    if exchanges.draining:
        return "this gateway is draining"
    if not directory.loaded:
        return "the registry has not been read yet"
    if book is not None and not book.loaded:
        return "the API keys have not been read yet"
    sessions = directory.sessions()
    if not any(session.live for session in sessions):
        states = Counter(session.state for session in sessions)  # no names: probes need no key
        found = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        return f"no worker is live: {found or 'the registry lists none'}"
    return None


def _json(body: msgspec.Struct, status: int) -> Response:
    return Response(msgspec.json.encode(body), status=status, content_type="application/json")
