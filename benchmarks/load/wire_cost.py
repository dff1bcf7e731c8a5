"""One measurement: a gateway and a worker as processes, N paced streams through them, CPU seconds before and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from benchmarks.load import script
from benchmarks.load.processes import Load, load_generator
from benchmarks.processes import Process, ProcessFailed, free_port, python, wait_http
from mesh import wire
from mesh.v1 import admin_pb2, inference_pb2
from mesh.v1.admin_pb2_grpc import AdminServiceStub
from mesh.v1.inference_pb2_grpc import InferenceServiceStub

_RPC_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to load the mesh. `step` is the pace of the scripted engine in seconds; `window` what is measured of it.

    `gateway_core` and `other_core` pin the gateway, and all else, to one core each; None leaves them alone.
    """

    streams: int
    step: float
    window: float
    settle: float
    asks: int
    gateway_core: int | None
    other_core: int | None


@dataclass(frozen=True, slots=True)
class Mode:
    """A name for the table, and the module that is the gateway."""

    name: str
    module: str


SESSION = Mode("one session per worker", "gateway")
PER_REQUEST = Mode("one gRPC stream per request", "benchmarks.load.per_request")


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment: CPU seconds of the processes, the worker's counters, the load's frames."""

    time: float
    gateway_cpu: float
    worker_cpu: float
    load_cpu: float
    tokens: float
    steps: float
    messages: int
    frames: int
    failed: int


@dataclass(frozen=True, slots=True)
class WireCost:
    """What one run of one mode found. CPU in seconds per token, times in seconds, memory in MiB.

    `messages_per_step` counts session messages that carry events; a stream per request sends none. `first_token` are
    the times through the gateway, `first_token_direct` those of a plain Generate on the worker, in the same run.
    """

    mode: Mode
    gateway_cpu: float
    worker_cpu: float
    load_cpu: float
    tokens_per_second: float
    frames_per_second: float
    messages_per_step: float
    ready: float
    memory_ready: float
    memory_loaded: float
    first_token: tuple[float, ...]
    first_token_direct: tuple[float, ...]


def measure(mode: Mode, plan: Plan) -> WireCost:
    """Start everything, measure, end everything. Raises ProcessFailed."""
    with TemporaryDirectory(prefix="bench-load-") as folder:
        return _measure(mode, plan, Path(folder))


def _measure(mode: Mode, plan: Plan, folder: Path) -> WireCost:
    port, registry = free_port(), free_port()
    arguments = ["--port", str(port), "--registry-port", str(registry)]
    with Process("gateway", python(mode.module, *arguments), folder, core=plan.gateway_core) as gateway:
        ready = wait_http(gateway, port, "/healthz")
        memory_ready = gateway.memory()
        with Process("worker", _worker(plan, registry), folder, core=plan.other_core) as worker:
            address = str(worker.wait_logged("worker is ready")["address"])
            wait_http(gateway, port, "/readyz")
            with load_generator(port, script.MODEL, core=plan.other_core) as load:
                first_token, direct = _first_tokens(load, address, plan)
                start, end = asyncio.run(_window(gateway, worker, address, load, plan))
                memory_loaded = gateway.memory()
    tokens, seconds = end.tokens - start.tokens, end.time - start.time
    _check(start, end)
    return WireCost(
        mode=mode,
        gateway_cpu=(end.gateway_cpu - start.gateway_cpu) / tokens,
        worker_cpu=(end.worker_cpu - start.worker_cpu) / tokens,
        load_cpu=(end.load_cpu - start.load_cpu) / tokens,
        tokens_per_second=tokens / seconds,
        frames_per_second=(end.frames - start.frames) / seconds,
        messages_per_step=(end.messages - start.messages) / (end.steps - start.steps),
        ready=ready,
        memory_ready=memory_ready,
        memory_loaded=memory_loaded,
        first_token=tuple(first_token),
        first_token_direct=tuple(direct),
    )


def _worker(plan: Plan, registry: int) -> list[str]:
    place = ["--port", "0", "--no-metrics", "--etcd", f"127.0.0.1:{registry}"]
    return python("mesh.worker", *place, *script.flags(plan.streams, plan.step))


async def _window(gateway: Process, worker: Process, address: str, load: Load, plan: Plan) -> tuple[Sample, Sample]:
    """Hold the streams, let them settle, and sample at both ends of the window."""
    held = load.do("hold", streams=plan.streams, max_tokens=_enough_tokens(plan))
    if held["live"] != plan.streams:
        raise ProcessFailed(f"{held['live']} of {plan.streams} streams are live: {held['first_failure']}")
    async with wire.channel(address) as channel:
        admin = AdminServiceStub(channel)
        await asyncio.sleep(plan.settle)
        start = await _sample(gateway, worker, admin, load)
        await asyncio.sleep(plan.window)
        end = await _sample(gateway, worker, admin, load)
    load.do("drop")
    return start, end


def _enough_tokens(plan: Plan) -> int:
    """So many that no stream ends within the window, even if the engine were twice as fast as asked."""
    return int(2 * (plan.settle + plan.window + 10) / plan.step)


async def _sample(gateway: Process, worker: Process, admin: AdminServiceStub, load: Load) -> Sample:
    counted = load.do("count")
    stats = await admin.GetStats(admin_pb2.GetStatsRequest(), timeout=_RPC_LIMIT)
    return Sample(
        time=time.perf_counter(),
        gateway_cpu=gateway.cpu(),
        worker_cpu=worker.cpu(),
        load_cpu=load.cpu(),
        tokens=stats.engine["output_tokens"],
        steps=stats.engine["steps"],
        messages=stats.session_messages,
        frames=counted["frames"],
        failed=counted["failed"] + counted["finished"],
    )


def _check(start: Sample, end: Sample) -> None:
    """A stream that broke or ended within the window spoils the figures."""
    if end.failed != start.failed:
        raise ProcessFailed(f"{end.failed - start.failed} streams ended within the window")
    if end.tokens <= start.tokens:
        raise ProcessFailed("no token was generated within the window")


def _first_tokens(load: Load, address: str, plan: Plan) -> tuple[list[float], list[float]]:
    """Times to the first token of single requests on an idle mesh, in turn through the gateway and directly.

    Between two requests is more than a step, so that the engine is idle again and starts on the next one at once.
    """
    through: list[float] = []
    direct: list[float] = []
    gap = 1.5 * plan.step
    for _ in range(3):
        count = max(1, plan.asks // 3)
        # The first one of each batch warms up.
        through += load.do("ask", requests=count + 1, streams=1, max_tokens=1, gap=gap)["first_token"][1:]
        direct += asyncio.run(_direct(address, count + 1, gap))[1:]
    return through, direct


async def _direct(address: str, count: int, gap: float) -> list[float]:
    """Times to the first token of plain Generate calls, one after the other."""
    request = inference_pb2.GenerateRequest(model=script.MODEL)
    request.chat.messages.add(role="user").parts.add(text=script.PROMPT)
    request.sampling.temperature = 0
    request.sampling.max_tokens = 1
    times: list[float] = []
    async with wire.channel(address) as channel:
        stub = InferenceServiceStub(channel)
        for _ in range(count):
            sent = time.perf_counter()
            first = 0.0
            async for response in stub.Generate(request, timeout=_RPC_LIMIT):
                if not first and response.WhichOneof("event") == "delta":
                    first = time.perf_counter() - sent
            times.append(first)
            await asyncio.sleep(gap)
    return times


def percentile(values: Sequence[float], rank: int) -> float:
    """The rank-th percentile, by linear interpolation; the only value of a list of one."""
    return quantiles(values, n=100, method="inclusive")[rank - 1] if len(values) > 1 else values[0]
