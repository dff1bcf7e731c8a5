"""The life of a gateway: registry, directory, HTTP server, and their end in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack

from gateway.access.book import Book
from gateway.access.exposure import check_exposure
from gateway.access.sync import Sync
from gateway.access.tls import HttpTls
from gateway.app import connection_limits, create_app, make_balancer, stall_limits
from gateway.config import GatewayConfig
from gateway.processes import Seat, watch_end
from gateway.routing.aliases import Aliases
from gateway.routing.directory import Directory
from gateway.server import HttpServer
from gateway.sockets import limit_sends, listen
from gateway.store.store import Store
from mesh.dial import dialler
from mesh.errors import invalid
from mesh.join import JoinToken
from mesh.keys import EtcdKeys, FileKeys
from mesh.keys import Store as KeyStore
from mesh.log import kv
from mesh.metrics import GatewayMetrics
from mesh.registry import (
    WORKERS_PREFIX,
    EmbeddedRegistry,
    EtcdClient,
    EtcdOptions,
    probe,
    watch_aliases,
    watch_routes,
    watch_workers,
)
from mesh.trace import open_spans
from mesh.version import version
from mesh.wire import Tls, client_credentials

log = logging.getLogger(__name__)


async def run(config: GatewayConfig, seat: Seat | None = None) -> None:
    """The whole life of a gateway, alone or on its seat among several. Raises MeshError if it cannot start."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(stop, hurry)
    check_exposure(config)
    https = _https(config)
    if seat is not None:
        watch_end(seat.parent, stop)
    tls = _worker_tls(config)
    join = JoinToken(config.join_token) if config.join_token is not None else None
    async with AsyncExitStack() as stack:
        sock = seat.socket if seat is not None else listen(config.host, config.port)
        stack.enter_context(contextlib.closing(sock))
        limit_sends(sock, config.send_timeout)
        options = await _registry(config, stack)
        etcd = await stack.enter_async_context(EtcdClient(options))
        metrics = GatewayMetrics()
        name = f"gateway@{socket.gethostname()}" + (f"#{seat.index}" if seat is not None else "")
        directory = Directory(
            client=name,
            grace=config.grace_period,
            limits=stall_limits(config),
            metrics=metrics,
            dial=dialler(tls, join),
            join=join,
        )
        balancer = make_balancer(config, metrics)
        aliases = Aliases()
        book = Book() if config.keyed else None
        spans = open_spans(config.otlp_endpoint, "mesh-gateway", name)
        if spans is not None:
            stack.push_async_callback(spans.close)
        store = Store(config.store, retention=config.store_retention)
        stack.push_async_callback(store.close)
        app, exchanges, beside = create_app(config, directory, balancer, aliases, metrics, store, book, seat, spans)
        if seat is not None:
            await stack.enter_async_context(seat.tell(metrics.registry))
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(directory.run()),
                group.create_task(
                    watch_workers(
                        etcd,
                        directory.on_worker,
                        check=join.check_record if join is not None else None,
                        on_state=directory.on_state,
                    )
                ),
                group.create_task(watch_routes(etcd, balancer.on_route)),
                group.create_task(aliases.run()),
                group.create_task(watch_aliases(etcd, aliases.on_alias)),
                *(group.create_task(run()) for run in beside),
            ]
            if book is not None:
                sync = Sync(book, _key_store(config, etcd), etcd)
                stack.push_async_callback(sync.close)
                background.append(group.create_task(sync.run()))
            if https is not None:
                background.append(group.create_task(https.watch()))
            _announce(config, sock, options)
            server = HttpServer(
                app,
                exchanges,
                sock,
                drain_timeout=config.drain_timeout,
                idle_timeout=config.idle_timeout,
                limits=connection_limits(config),
                tls=https.context if https is not None else None,
            )
            await server.run(stop, hurry)
            for task in background:
                task.cancel()
    log.info("gateway stopped")


async def run_registry(config: GatewayConfig, parent: int, tell: int) -> None:
    """The whole life of a registry that gateways share: see `gateway.supervisor.RegistryMain`."""
    stop = asyncio.Event()
    _on_signals(stop, stop)
    watch_end(parent, stop)
    check_exposure(config)
    async with AsyncExitStack() as stack:
        options = await _embedded(config, stack)
        os.write(tell, f"{options.where}\n".encode())
        os.close(tell)
        log.info("registry listening", extra=kv(registry=options.where))
        await stop.wait()


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
    return await _embedded(config, stack)


async def _embedded(config: GatewayConfig, stack: AsyncExitStack) -> EtcdOptions:
    """Serve the registry until the stack ends."""
    registry = EmbeddedRegistry()
    port = await registry.start(config.registry_host, config.registry_port)
    stack.push_async_callback(registry.stop)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.registry_host, config.registry_host)
    return EtcdOptions.from_url(f"http://{host}:{port}")


def _key_store(config: GatewayConfig, etcd: EtcdClient) -> KeyStore:
    """Where the API keys are. Raises MeshError if they cannot be read."""
    if config.keys_file is None:
        return EtcdKeys(etcd)
    store = FileKeys(config.keys_file)
    store.check()
    return store


def _announce(config: GatewayConfig, sock: socket.socket, options: EtcdOptions) -> None:
    """Say where everything is, now that it is; and tell the collector that what is there now stays."""
    gc.collect()
    gc.freeze()
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"{'http' if config.tls_cert is None else 'https'}://{host}:{sock.getsockname()[1]}"
    kind = "embedded" if config.etcd is None else "etcd"
    log.info("gateway listening", extra=kv(url=url, registry=options.where, registry_kind=kind, version=version()))


def _https(config: GatewayConfig) -> HttpTls | None:
    """The HTTP server's TLS. Raises MeshError if its files cannot be used."""
    if config.tls_cert is None and config.tls_key is None:
        return None
    if config.tls_cert is None or config.tls_key is None:
        raise invalid("tls_cert", "--tls-cert and --tls-key must be given together")
    return HttpTls(config.tls_cert, config.tls_key)


def _worker_tls(config: GatewayConfig) -> Tls | None:
    """How to speak to workers: with TLS if one of its files is given. Raises MeshError if one cannot be read."""
    tls = Tls(ca=config.worker_ca, cert=config.worker_cert, key=config.worker_key)
    if tls == Tls():
        return None
    client_credentials(tls)  # now, and not when the first worker appears
    return tls
