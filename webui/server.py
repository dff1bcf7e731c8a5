"""The life of the web server: its socket, its store, its pages."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from contextlib import closing
from pathlib import Path

import uvicorn

from mesh.log import kv
from webui.app import web_app
from webui.arena import Arena
from webui.config import WebConfig
from webui.gateway import Gateway
from webui.pages.desk import Desk
from webui.records import Gate, Store
from webui.sampling import PairSampler
from webui.store.store import open_store
from webui.trust.gate import ArenaGate

log = logging.getLogger(__name__)

# Pages that still follow an answer when the server is asked to end.
_GRACE_SECONDS = 3


class AddressTaken(Exception):
    """The server cannot listen there; the message is one sentence."""


def serve(config: WebConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises AddressTaken, and StoreUnavailable."""
    with (
        closing(_listen(config.host, config.port)) as listener,
        closing(open_store(config.where)) as store,
        tempfile.TemporaryDirectory(prefix="mesh-webui-") as folder,
    ):
        asyncio.run(_serve(config, listener, store, Path(folder)))


async def _serve(config: WebConfig, listener: socket.socket, store: Store, folder: Path) -> None:
    gateway = Gateway(config.gateway, config.api_key)
    gate: Gate = ArenaGate()
    arena = Arena(gateway, store, PairSampler(), gate, config.parameters)
    app = web_app(Desk(config, arena, {}, folder))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=bool(config.trusted_proxy),
            forwarded_allow_ips=list(config.trusted_proxy),
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    host, port = listener.getsockname()[:2]
    log.info("web pages listening", extra=kv(url=f"http://{host}:{port}", gateway=config.gateway, store=config.where))
    await server.serve(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise AddressTaken(f"cannot listen on {host}:{port}: {error.strerror}") from None
