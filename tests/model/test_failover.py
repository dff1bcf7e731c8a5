"""A worker with a real model is lost after each k-th token: the gateway's client sees what it would have seen.

Everything is in this process but real: the engine, the workers' services, the wire, the gateway. Both workers serve the
same engine, so that a drill costs no start of one. The connection to the first is cut after exactly k tokens of each
answer, and nothing connects there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import PreTrainedModel

from benchmarks.systems.tcp_proxy import TcpProxy
from mesh.engine.base import Delta, Engine, Event, Finished, Load, ModelInfo, Request, Step, StepListener
from mesh.engine.transformers.engine import TransformersEngine
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.lora.config import AdapterSource
from mesh.engine.transformers.memory import CacheSize
from mesh.engine.transformers.options import EngineOptions
from mesh.v1.registry_pb2 import WorkerRecord
from mesh.worker.config import WorkerConfig
from mesh.worker.identity import Identity
from mesh.worker.lifecycle import make_record
from mesh.worker.server import WorkerServer
from tests.component.gateway_fixture import GatewayUnderTest
from tests.harness import eventually
from tests.model.adapters import make_adapter

Saved = tuple[str, PreTrainedModel]
TOKENS = 10
# What differs between two answers that are the same.
_IDENTITY = ("id", "created", "prompt_tokens_details")
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 6}}, "required": ["a"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": ("chat/completions", CHAT | {"temperature": 0}),
    "three choices": ("chat/completions", CHAT | {"n": 3, "seed": 1, "logprobs": True, "top_logprobs": 2}),
    "adapter": ("chat/completions", CHAT | {"model": "adapted", "seed": 2}),
    "json schema": (
        "chat/completions",
        CHAT | {"seed": 3, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
    ),
    "prompt_logprobs": ("chat/completions", CHAT | {"seed": 4, "prompt_logprobs": 1, "stream": False}),
    "echo": ("completions", {"prompt": "one two", "echo": True, "logprobs": 2, "seed": 5, "n": 2}),
}


class Hub:
    """Lets several fronts share an engine: a front is an Engine of its own, with keys of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.fronts: list[Front] = []

    def on_step(self, step: Step) -> None:
        shares: list[list[Event]] = [[] for _ in self.fronts]
        for event in step.events:
            event.key, index = divmod(event.key, len(self.fronts))
            shares[index].append(event)
        for front, events in zip(self.fronts, shares, strict=True):
            front.take(Step(step.number, events, step.load))


class Front(Engine):
    """`limit`: of each request that many tokens of its first choice are told, and then nothing more."""

    name = "front"

    def __init__(self, hub: Hub) -> None:
        self.limit: int | None = None
        self.stopped = 0
        self._hub = hub
        self._engine = hub.engine
        self._index = len(hub.fronts)
        self._told: dict[int, int] = {}
        self._listener: StepListener | None = None
        hub.fronts.append(self)

    def cut_after(self, limit: int | None) -> None:
        self.limit, self.stopped = limit, 0
        self._told.clear()

    def take(self, step: Step) -> None:
        told = [event for event in step.events if not self._is_over(event.key)]
        for event in told:
            if isinstance(event, Delta) and event.choice == 0:
                self._told[event.key] = self._told.get(event.key, 0) + 1
        self.stopped += sum(self._is_last(event) for event in told)
        if told and self._listener is not None:
            self._listener(Step(step.number, told, step.load))

    def _is_over(self, key: int) -> bool:
        return self.limit is not None and self._told.get(key, 0) >= self.limit

    def _is_last(self, event: Event) -> bool:
        told = isinstance(event, Delta) and event.choice == 0 and self._told[event.key] == self.limit
        return told or (isinstance(event, Finished) and not self._is_over(event.key))

    @property
    def models(self) -> Sequence[ModelInfo]:
        return self._engine.models

    async def start(self, listener: StepListener) -> None:
        self._listener = listener

    async def stop(self) -> None:
        self._listener = None

    async def submit(self, request: Request) -> None:
        if self.limit == 0:
            self.stopped += 1
            return
        await self._engine.submit(replace(request, key=self._shared(request.key)))

    def cancel(self, key: int) -> None:
        self._engine.cancel(self._shared(key))

    def grant(self, key: int, tokens: int) -> None:
        self._engine.grant(self._shared(key), tokens)

    def load(self) -> Load:
        return self._engine.load()

    def _shared(self, key: int) -> int:
        return key * len(self._hub.fronts) + self._index


class Stage:
    """A gateway, a victim in its own zone, which gets every request, and a survivor."""

    def __init__(
        self,
        gateway: GatewayUnderTest,
        front: Front,
        server: WorkerServer,
        records: Sequence[WorkerRecord],
        port: int,
    ) -> None:
        self.gateway = gateway
        self.front = front
        self.server = server
        self.victim, self.survivor = records
        self._port = port

    def moved(self, cause: str) -> float:
        """Answers that went on elsewhere because of that, so far."""
        models = ("base", "adapted")
        return sum(self.gateway.metric("mesh_gateway_resumes_total", model=each, cause=cause) for each in models)

    def lost(self) -> float:
        """Attempts that ended with the connection, so far."""
        models = ("base", "adapted")
        return sum(self.gateway.metric("mesh_gateway_attempts_total", model=each, outcome="lost") for each in models)

    async def answers(self) -> dict[str, Any]:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(self.ask(*case)) for name, case in CASES.items()}
        return {name: task.result() for name, task in tasks.items()}

    async def ask(self, path: str, body: dict[str, Any]) -> Any:
        whole = {"model": "base", "max_tokens": TOKENS, "stream": True, **body}
        if whole["stream"]:
            whole["stream_options"] = {"include_usage": True}
        response = await self.gateway.http.post(f"/v1/{path}", json=whole)
        return seen(response)

    async def cut_after(self, k: int) -> dict[str, Any]:
        """All answers, of which the victim gives k tokens."""
        self.front.cut_after(k)
        async with TcpProxy(self._port) as proxy:
            record = WorkerRecord()
            record.CopyFrom(self.victim)
            record.address = f"127.0.0.1:{proxy.port}"
            self.gateway.directory.on_worker("victim", record)
            await eventually(lambda: self.gateway.session("victim") and self.gateway.session("survivor"))
            asked = asyncio.create_task(self.answers())
            await eventually(lambda: self.front.stopped >= len(CASES))
        return await asked


@asynccontextmanager
async def stage(engine: Engine) -> AsyncGenerator[Stage]:
    hub = Hub(engine)
    fronts = Front(hub), Front(hub)
    await engine.start(hub.on_step)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.stop)
        records: list[WorkerRecord] = []
        servers: list[WorkerServer] = []
        ports: list[int] = []
        for front, name, zone in zip(fronts, ("victim", "survivor"), ("front", "back"), strict=True):
            server = WorkerServer(front, Identity(name))
            servers.append(server)
            ports.append(server.bind("127.0.0.1", 0))
            await server.start()
            stack.push_async_callback(server.stop)
            records.append(make_record(WorkerConfig(engine="scripted", zone=zone), server, f"127.0.0.1:{ports[-1]}"))
        # The victim fails more often than a gateway would look on.
        settings: dict[str, Any] = {"zone": "front", "stall_floor": 30.0, "eject_after": 0}
        gateway = await stack.enter_async_context(GatewayUnderTest(**settings))
        gateway.directory.on_worker("survivor", records[1])
        yield Stage(gateway, fronts[0], servers[0], records, ports[0])


def seen(response: httpx.Response) -> Any:
    """What must be equal: everything but ids, times and what was found in the prefix cache, the chunks by choice."""
    assert response.status_code == 200, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        return plain(response.json())
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks: dict[int, list[Any]] = {}
    for line in lines[:-1]:
        chunk = plain(httpx.Response(200, text=line).json())
        for choice in chunk.pop("choices"):
            chunks.setdefault(choice["index"], []).append(choice)
        chunks.setdefault(-1, []).append(chunk)
    return chunks


def plain(value: Any) -> Any:
    """Without identity."""
    match value:
        case dict():
            return {name: plain(each) for name, each in value.items() if name not in _IDENTITY}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def nearly(value: Any) -> Any:
    """The same with numbers that are equal but for rounding."""
    match value:
        case dict():
            return {name: nearly(each) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [nearly(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case float():
            return pytest.approx(value, abs=1e-3)
        case _:
            return value


@pytest.fixture
async def on(llama: Saved, tmp_path: Path) -> AsyncGenerator[Stage]:
    adapter = AdapterSource("adapted", make_adapter(tmp_path / "adapter", llama[1]).path)
    load = LoadOptions(path=llama[0], name="base", threads=1)
    options = EngineOptions(load, kv_cache=CacheSize(tokens=4096), max_rows=32, adapters=(adapter,))
    async with stage(TransformersEngine(options)) as on:
        yield on


async def test_lost_after_each_token(on: Stage) -> None:
    undisturbed = nearly(await on.answers())
    for k in range(TOKENS + 1):
        lost = on.lost()
        assert await on.cut_after(k) == undisturbed, k
        # Nothing is left to do for an answer that has all its tokens.
        assert k == TOKENS or on.lost() - lost >= len(CASES), k


async def test_a_drain_moves_every_stream_at_once(on: Stage) -> None:
    """The victim says nothing more, so nobody can have waited for it."""
    undisturbed = nearly(await on.answers())
    on.front.cut_after(3)
    on.gateway.directory.on_worker("victim", on.victim)
    await eventually(lambda: on.gateway.session("victim"))
    asked = asyncio.create_task(on.answers())
    await eventually(lambda: on.front.stopped >= len(CASES))
    assert len(on.server.streams) == len(CASES)
    await on.server.drain()
    assert await asked == undisturbed
    assert on.moved("draining") == len(CASES)
    await eventually(lambda: not on.server.streams.busy)
