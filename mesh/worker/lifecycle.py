"""The life of a worker process: load, serve, announce, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from google.protobuf.timestamp_pb2 import Timestamp

from mesh.engine.base import Engine
from mesh.log import kv
from mesh.registry.announce import Announcer
from mesh.registry.client import probe
from mesh.registry.options import is_loopback
from mesh.registry.records import WORKERS_PREFIX
from mesh.trace import open_spans
from mesh.v1 import registry_pb2
from mesh.version import version
from mesh.worker.config import WorkerConfig
from mesh.worker.engines import make_engine
from mesh.worker.events import capabilities
from mesh.worker.exporter import EngineCollector, serve_metrics
from mesh.worker.identity import Identity
from mesh.worker.server import WorkerServer

log = logging.getLogger(__name__)

# How often a long load says that it is still at it.
_LOAD_REPORT = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run(config: WorkerConfig, engine: Engine | None = None) -> int:
    """Run a worker until it is asked to stop and is empty, or its engine breaks down; returns the exit code.

    `engine` is the configuration's unless another is given. Raises MeshError with one sentence if it cannot start.
    """
    spans = open_spans(config.otlp_endpoint, "mesh-worker", config.id_or_default())
    identity = Identity(config.id_or_default(), join=config.join)
    server = WorkerServer(
        engine or make_engine(config), identity, tls=config.tls, spans=spans, also_speak=config.also_speak
    )
    async with AsyncExitStack() as stack:
        if spans is not None:
            stack.push_async_callback(spans.close)
        stack.enter_context(_on_signals(lambda: _asked_to_stop(server)))
        # Everything that can be refused is asked for before the load, which may take minutes.
        stack.push_async_callback(server.stop)
        address = config.advertised(server.bind(config.host, config.port))
        if not is_loopback(config.host) and config.join is None and config.tls_ca is None:
            log.warning("whoever reaches this port can use it: there is neither a join token nor --tls-ca")
        if config.register and config.etcd:
            await probe(config.etcd_options(), WORKERS_PREFIX, write=True)
        if config.metrics:
            stack.enter_context(_metrics(config, server))
        await _load(server)
        if config.register:
            stack.enter_context(_announced(config, server, address))
        models = ", ".join(model.name for model in server.engine.models)
        facts = kv(worker=server.identity.worker_id, address=address, models=models, version=version())
        log.info("worker is ready", extra=facts)
        return await _serve_or_break(config, server)


async def _load(server: WorkerServer) -> None:
    began = time.monotonic()
    async with _reporting_progress(began):
        await server.start()
    log.info("engine is loaded", extra=kv(seconds=round(time.monotonic() - began, 2)))


async def _serve_or_break(config: WorkerConfig, server: WorkerServer) -> int:
    """Serve to the end. Without an engine a worker only draws requests to their failure, so it ends."""
    broken = asyncio.create_task(server.engine.wait_broken())
    serving = asyncio.create_task(_serve(config, server))
    try:
        await asyncio.wait({broken, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not broken.done():
            serving.result()
            return 0
        log.critical("the engine has broken down: this worker ends", extra=kv(streams=len(server.streams)))
        await server.break_down()
        return 1
    finally:
        broken.cancel()
        serving.cancel()
        await asyncio.wait({broken, serving})


async def _serve(config: WorkerConfig, server: WorkerServer) -> None:
    """Until the worker is asked to end and its streams are gone, or the time for that is over."""
    await server.stopping.wait()
    await server.drain()
    log.info("draining", extra=kv(streams=len(server.streams), limit=config.drain_timeout))
    if not await server.wait_empty(config.drain_timeout):
        log.warning("streams are left at the end of the drain", extra=kv(streams=len(server.streams)))


def _asked_to_stop(server: WorkerServer) -> None:
    """The first signal drains, a second one ends at once, and so does one during the load, which serves nobody."""
    if not server.serving:
        _end_at_once("stopped during the load", 0)
    if server.stopping.is_set():
        _end_at_once("stopped by a second signal", 1)
    server.stopping.set()


def _end_at_once(why: str, code: int) -> None:
    log.warning(why)
    logging.shutdown()
    os._exit(code)


@contextmanager
def _on_signals(handler: Callable[[], None]) -> Generator[None]:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _reporting_progress(began: float) -> AsyncGenerator[None]:
    async def report() -> None:
        while True:
            await asyncio.sleep(_LOAD_REPORT)
            log.info("still loading", extra=kv(seconds=round(time.monotonic() - began)))

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextmanager
def _metrics(config: WorkerConfig, server: WorkerServer) -> Generator[None]:
    registry = server.metrics.registry
    registry.register(EngineCollector(server.engine, asyncio.get_running_loop()))
    with serve_metrics(registry, config.host, config.metrics_port_or_default()) as port:
        log.info("serving metrics", extra=kv(port=port))
        yield


@contextmanager
def _announced(config: WorkerConfig, server: WorkerServer, address: str) -> Generator[None]:
    announcer = Announcer(config.etcd_options(), make_record(config, server, address), ttl=config.ttl)
    server.metrics.registered.set_function(lambda: announcer.registered)
    server.on_change = lambda: announcer.update(make_record(config, server, address))
    announcer.start()
    try:
        yield
    finally:
        announcer.stop()


def make_record(config: WorkerConfig, server: WorkerServer, address: str) -> registry_pb2.WorkerRecord:
    """What the registry says of this worker; the engine must have been started."""
    started = Timestamp()
    started.FromDatetime(server.identity.started_at)
    record = registry_pb2.WorkerRecord(
        worker_id=server.identity.worker_id,
        incarnation=server.identity.incarnation,
        address=address,
        models=[
            registry_pb2.ServedModel(
                name=model.name,
                fingerprint=model.fingerprint,
                context_length=model.context_length,
                capabilities=capabilities(model),
                base=model.base or "",
                tool_parser=model.dialect.tools,
                reasoning_parser=model.dialect.reasoning,
            )
            for model in server.engine.models
        ],
        slots=server.engine.load().slots,
        state=(registry_pb2.WORKER_STATE_DRAINING if server.streams.draining else registry_pb2.WORKER_STATE_READY),
        version=version(),
        zone=config.zone,
        started_at=started,
        engine=server.engine.name,
        labels=config.labels,
        weight=config.weight,
    )
    if config.join is not None:
        record.proof = config.join.record(record)
    return record
