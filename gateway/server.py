"""The HTTP server around the application: its socket, its event loop's protocol, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Generator

import uvicorn
from quart import Quart
from uvicorn.protocols.http.flow_control import FlowControl

from gateway.access.connections import ConnectionLimits, LimitedHttp
from gateway.exchange import CONNECTION_KEY, Exchanges
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv

log = logging.getLogger(__name__)

# Its notes on start and end say nothing that ours do not.
logging.getLogger("uvicorn").setLevel(logging.WARNING)

# After the limit of a drain: what the error events need to reach the clients.
_LAST_WORDS_SECONDS = 2
_POLL_SECONDS = 0.05


class _Connection:
    """See gateway.exchange.Connection; of one request."""

    __slots__ = ("_flow", "_transport")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport = transport
        self._flow = flow

    def ready(self) -> bool:
        return not self._flow.write_paused and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))


class _Http(LimitedHttp):
    """Tells the application the way past ASGI's `send`, on which each token would cost a coroutine."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION_KEY] = _Connection(self.transport, self.flow)  # type: ignore[typeddict-unknown-key]


def _http(limits: ConnectionLimits) -> type[_Http]:
    """The class of one server's connections, which it counts by address."""
    return type("Http", (_Http,), {"limits": limits, "addresses": Counter[str]()})


class _Uvicorn(uvicorn.Server):
    """Without signal handlers of its own: the process has them in one place."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _always(tls: ssl.SSLContext | None) -> Callable[[uvicorn.Config, object], ssl.SSLContext] | None:
    """As uvicorn asks for a context."""
    if tls is None:
        return None
    return lambda _config, _default: tls


class HttpServer:
    """Serves the application on a socket until `stop` is set, then lets live exchanges end."""

    def __init__(
        self,
        app: Quart,
        exchanges: Exchanges,
        sock: socket.socket,
        *,
        drain_timeout: float,
        idle_timeout: float = 75.0,
        limits: ConnectionLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`idle_timeout`: seconds that a connection may wait for its next request."""
        self._exchanges = exchanges
        self._sock = sock
        self._drain_timeout = drain_timeout
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                http=_http(limits or ConnectionLimits()),
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_context_factory=_always(tls),
                timeout_keep_alive=idle_timeout,  # pyright: ignore[reportArgumentType]  # goes to call_later
                timeout_graceful_shutdown=int(drain_timeout) + _LAST_WORDS_SECONDS + 1,
            )
        )

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Serve. `hurry` ends the wait for live exchanges."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._server.serve(sockets=[self._sock]))
            await stop.wait()
            self._exchanges.draining = True
            self._server.should_exit = True
            if not await self._empty(self._drain_timeout, hurry):
                log.warning("live requests are cut off", extra=kv(requests=len(self._exchanges.live)))
                self._exchanges.abort(MeshError(ErrorKind.DRAINING, "the gateway stops before the answer was complete"))
                await self._empty(_LAST_WORDS_SECONDS)
                self._server.force_exit = True
            await serving

    async def _empty(self, limit: float, hurry: asyncio.Event | None = None) -> bool:
        """Wait until no exchange is under way; False if `limit` seconds were not enough."""
        deadline = time.monotonic() + limit
        while self._exchanges.live:
            if time.monotonic() >= deadline or (hurry is not None and hurry.is_set()):
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True
