"""`mesh-gateway`: registry, directory, HTTP server, and their end in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from gateway.app import create_app, stall_limits
from gateway.config import GatewayConfig
from gateway.directory import Directory
from gateway.server import HttpServer, listen
from mesh.config import fail, parse
from mesh.errors import MeshError
from mesh.log import kv, setup
from mesh.metrics import GatewayMetrics
from mesh.registry import WORKERS_PREFIX, EmbeddedRegistry, EtcdClient, EtcdOptions, probe, watch_workers
from mesh.wire import client_credentials

log = logging.getLogger(__name__)

PROG = "mesh-gateway"


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; exit code 0, or 2 with one sentence if it cannot start."""
    config = parse(GatewayConfig, prog=PROG, env_prefix="MESH_GATEWAY_", argv=argv)
    setup("gateway")
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run(config))
    except* MeshError as group:
        fail(PROG, _first(group).message)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it costs about a third less CPU per streamed token."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def run(config: GatewayConfig) -> None:
    """The whole life of a gateway. Raises MeshError if it cannot start."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(stop, hurry)
    if config.worker_tls is not None:
        client_credentials(config.worker_tls)  # a file that cannot be read is an error now, not at the first worker
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(contextlib.closing(listen(config.host, config.port)))
        options = await _registry(config, stack)
        etcd = await stack.enter_async_context(EtcdClient(options))
        metrics = GatewayMetrics()
        directory = Directory(
            client=f"gateway@{socket.gethostname()}",
            grace=config.grace_period,
            limits=stall_limits(config),
            metrics=metrics,
            tls=config.worker_tls,
        )
        app, exchanges = create_app(config, directory, metrics)
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(directory.run()),
                group.create_task(
                    watch_workers(etcd, directory.on_worker, prefix=WORKERS_PREFIX, on_state=directory.on_state)
                ),
            ]
            _announce(config, sock, options)
            await HttpServer(app, exchanges, sock, drain_timeout=config.drain_timeout).run(stop, hurry)
            for task in background:
                task.cancel()
    log.info("gateway stopped")


def _on_signals(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """The first signal drains, the second one does not wait."""

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, on_signal)


async def _registry(config: GatewayConfig, stack: AsyncExitStack) -> EtcdOptions:
    """Where the registry is: etcd, asked once whether it answers, or our own."""
    if config.etcd is not None:
        options = EtcdOptions.from_url(
            config.etcd,
            ca=config.etcd_ca,
            cert=config.etcd_cert,
            key=config.etcd_key,
            user=config.etcd_user,
            password=config.etcd_password,
        )
        await probe(options, WORKERS_PREFIX)
        return options
    registry = EmbeddedRegistry()
    port = await registry.start(config.registry_host, config.registry_port)
    stack.push_async_callback(registry.stop)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.registry_host, config.registry_host)
    return EtcdOptions.from_url(f"http://{host}:{port}")


def _announce(config: GatewayConfig, sock: socket.socket, options: EtcdOptions) -> None:
    """Say where everything is, now that it is; and tell the collector that what is there now stays."""
    gc.collect()
    gc.freeze()
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{host}:{sock.getsockname()[1]}"
    kind = "embedded" if config.etcd is None else "etcd"
    log.info("gateway listening", extra=kv(url=url, registry=options.where, registry_kind=kind))


def _first(group: BaseExceptionGroup[MeshError]) -> MeshError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


if __name__ == "__main__":
    main()
