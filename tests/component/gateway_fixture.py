"""The whole gateway in this process: real HTTP server, real sessions; the registry's news come from the test."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from types import TracebackType
from typing import Any, Self

import httpx

from gateway.access.book import Book
from gateway.access.tls import HttpTls
from gateway.app import connection_limits, create_app, make_balancer, stall_limits
from gateway.config import GatewayConfig
from gateway.routing.aliases import Aliases
from gateway.routing.directory import Directory
from gateway.server import HttpServer
from gateway.sockets import limit_sends, listen
from gateway.store.store import Store
from mesh.join import JoinToken
from mesh.metrics import GatewayMetrics
from mesh.trace import Spans
from mesh.wire import Tls
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually


class GatewayUnderTest:
    """`async with` it. `http` speaks to it over a real socket. With a `book`, requests need one of its keys."""

    def __init__(self, **settings: Any) -> None:
        self.book: Book | None = settings.pop("book", None)
        self.certificates: Tls | None = settings.pop("certificates", None)
        self.spans: Spans | None = settings.pop("spans", None)
        self._folder = tempfile.TemporaryDirectory(prefix="gateway-")
        settings.setdefault("store", f"{self._folder.name}/store.db")
        settings.setdefault("files", f"{self._folder.name}/files")
        self.config = GatewayConfig(port=0, **settings)
        self.store = Store(self.config.store, retention=self.config.store_retention)
        self.metrics = GatewayMetrics()
        self.directory = Directory(
            client="test",
            grace=self.config.grace_period,
            limits=stall_limits(self.config),
            metrics=self.metrics,
            join=JoinToken(self.config.join_token) if self.config.join_token else None,
        )
        self.balancer = make_balancer(self.config, self.metrics)
        self.aliases = Aliases()
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.url = ""
        self.port = 0
        self.http: httpx.AsyncClient
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        sock = listen(self.config.host, 0)
        limit_sends(sock, self.config.send_timeout)
        self.port = sock.getsockname()[1]
        https = None
        if self.certificates is not None:
            assert self.certificates.cert is not None
            assert self.certificates.key is not None
            https = HttpTls(self.certificates.cert, self.certificates.key)
        self.url = f"{'http' if https is None else 'https'}://127.0.0.1:{self.port}"
        self.app, self.exchanges, self._beside = create_app(
            self.config,
            self.directory,
            self.balancer,
            self.aliases,
            self.metrics,
            self.store,
            self.book,
            spans=self.spans,
        )
        server = HttpServer(
            self.app,
            self.exchanges,
            sock,
            drain_timeout=self.config.drain_timeout,
            idle_timeout=self.config.idle_timeout,
            limits=connection_limits(self.config),
            tls=https and https.context,
        )
        self._task = asyncio.create_task(self._run(server, https))
        trusted = self.certificates and ssl.create_default_context(cafile=self.certificates.ca)
        self.http = httpx.AsyncClient(base_url=self.url, timeout=30, verify=trusted or True)
        await eventually(self._answers)
        return self

    async def _run(self, server: HttpServer, https: HttpTls | None) -> None:
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(run()) for run in (self.directory.run, self.aliases.run, *self._beside)]
            if https is not None:
                background.append(group.create_task(https.watch()))
            await server.run(self.stop, self.hurry)
            for task in background:
                task.cancel()

    async def _answers(self) -> bool:
        try:
            return (await self.http.get("/healthz")).status_code == 200
        except httpx.TransportError:
            return False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()
        self.stop.set()
        self.hurry.set()
        await self._task
        await self.store.close()
        self._folder.cleanup()

    async def add(self, *workers: FakeWorker) -> None:
        """Let workers appear in the registry, and wait for their sessions."""
        for worker in workers:
            self.directory.on_worker(worker.worker_id, worker.record())
        await eventually(lambda: all(self.session(worker.worker_id) for worker in workers))

    def session(self, worker_id: str) -> bool:
        """Whether a worker can take work."""
        return any(each.worker_id == worker_id and each.live for each in self.directory.sessions())

    @property
    def waiting(self) -> int:
        """Requests in the queue, whatever their model."""
        found = [metric for metric in self.metrics.registry.collect() if metric.name == "mesh_gateway_queue_requests"]
        return round(sum(sample.value for metric in found for sample in metric.samples))

    async def chat(self, **fields: Any) -> httpx.Response:
        """One request in one piece."""
        return await self.http.post("/v1/chat/completions", json=body(**fields))

    async def stream(self, **fields: Any) -> list[Any]:
        """The events of a streamed answer as objects, [DONE] as a string."""
        found: list[Any] = []
        async with self.http.stream("POST", "/v1/chat/completions", json=body(stream=True, **fields)) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    found.append(data if data == "[DONE]" else json.loads(data))
        return found

    def tokens(self, kind: str, operation: str = "chat") -> float:
        """Tokens of the model m so far, `input` or `output`."""
        labels = {"gen_ai_operation_name": operation, "gen_ai_request_model": "m", "gen_ai_token_type": kind}
        return self.metric("gen_ai_client_token_usage_sum", **labels)

    def metric(self, name: str, **labels: str) -> float:
        """A sample; 0 if there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def body(**fields: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 7, **fields}


def text(events: list[Any], choice: int = 0) -> str:
    """The text of one choice of a stream."""
    return "".join(
        item["delta"].get("content") or ""
        for event in events
        if event != "[DONE]"
        for item in event["choices"]
        if item["index"] == choice
    )


def without_identity(events: list[Any]) -> list[Any]:
    """The events but for what differs between any two answers."""
    return [event if event == "[DONE]" else {**event, "id": "", "created": 0} for event in events]
