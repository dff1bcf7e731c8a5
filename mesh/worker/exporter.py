"""/metrics of a worker: its own counters, the engine's, and the load."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from mesh.engine.base import Engine
from mesh.errors import ErrorKind, MeshError

_LIMIT = 2.0


class EngineCollector(Collector):
    """Asks the engine, on the event loop's thread as every call of an engine, when /metrics is read."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the names are the engine's."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The load as gauges, and the engine's counters, whose types it does not tell."""
        try:
            load, stats = asyncio.run_coroutine_threadsafe(self._ask(), self._loop).result(_LIMIT)
        except TimeoutError:
            return  # a loop this busy is shown by what is missing here; the other metrics are still served
        for name, value in load.items():
            yield GaugeMetricFamily(f"mesh_worker_load_{name}", f"See WorkerLoad.{name}.", value)
        for name, value in stats.items():
            yield UnknownMetricFamily(f"mesh_engine_{name}", f"The engine's {name.replace('_', ' ')}.", value)

    async def _ask(self) -> tuple[dict[str, float], dict[str, float]]:
        return asdict(self._engine.load()), self._engine.stats()


@contextmanager
def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> Generator[int]:
    """Serve /metrics in a thread while the context lasts; gives the port. Raises MeshError if it is taken."""
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise MeshError(
            ErrorKind.INVALID_REQUEST,
            f"cannot serve metrics on {host}:{port} (--metrics-port): {error.strerror}",
            param="metrics_port",
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
