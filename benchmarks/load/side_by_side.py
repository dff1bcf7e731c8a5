"""`python -m benchmarks.load --peers`: our gateway beside others, one scripted worker each, under the same load."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load.processes import Load, load_generator
from benchmarks.load.wire_cost import Plan, percentile
from benchmarks.processes import ProcessFailed, first_line
from benchmarks.systems.system import MODEL, Pace, Setup, System
from benchmarks.table import markdown, number

_FOR_EVER = 900_000  # tokens: no answer ends within a measurement, nor fills a context


@dataclass(frozen=True, slots=True)
class Held:
    """Streams that are live at once: CPU in seconds per frame, memory in MiB."""

    gateway_cpu: float
    worker_cpu: float
    frames_per_second: float
    memory: float


_NOTHING = Held(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class SystemCost:
    """What one system costs. `first_token` are seconds, through the gateway to a worker that answers at once.

    A number of streams that the system did not carry is absent from `held` and in `failed`, with the reason.
    """

    ready: float
    memory_ready: float
    first_token: tuple[float, ...]
    held: Mapping[int, Held]
    failed: Mapping[int, str]


def measure(system: type[System], plan: Plan, streams: Sequence[int]) -> SystemCost:
    """One system: asked one after the other, then with each number of streams. Raises ProcessFailed."""
    return asyncio.run(_measure(system, plan, streams))


async def _measure(system: type[System], plan: Plan, streams: Sequence[int]) -> SystemCost:
    setup = Setup(
        workers=(Pace(step=plan.step, prefill=0.0),),
        gateway_core=plan.gateway_core,
        worker_core=plan.other_core,
        slots=max(streams),
        guarded=False,
    )
    with TemporaryDirectory(prefix="bench-load-") as folder:
        async with system(Path(folder), setup) as running:
            memory_ready = running.gateways[0].memory()
            with load_generator(running.port, MODEL, core=plan.other_core) as load:
                asked = load.do("ask", requests=plan.asks + 1, streams=1, max_tokens=1, gap=1.5 * plan.step)
                held: dict[int, Held] = {}
                failed: dict[int, str] = {}
                for count in streams:
                    try:
                        held[count] = await _hold(running, load, plan, count)
                    except (ProcessFailed, TimeoutError) as error:
                        failed[count] = first_line(error)
            return SystemCost(running.ready_seconds, memory_ready, tuple(asked["first_token"][1:]), held, failed)


async def _hold(running: System, load: Load, plan: Plan, streams: int) -> Held:
    gateway, worker = running.gateways[0], running.workers[0]
    held = load.do("hold", streams=streams, max_tokens=_FOR_EVER)
    if held["live"] != streams:
        raise ProcessFailed(f"{held['live']} of {streams} streams are live: {held['first_failure']}")
    await asyncio.sleep(plan.settle)
    before, gateway_cpu, worker_cpu = load.do("count"), gateway.cpu(), worker.cpu()
    await asyncio.sleep(plan.window)
    after, gateway_cpu, worker_cpu = load.do("count"), gateway.cpu() - gateway_cpu, worker.cpu() - worker_cpu
    memory = gateway.memory()
    load.do("drop")
    if after["live"] != streams:
        raise ProcessFailed(f"{streams - after['live']} streams ended within the window: {after['first_failure']}")
    frames = after["frames"] - before["frames"]
    seconds = after["time"] - before["time"]
    return Held(gateway_cpu / frames, worker_cpu / frames, frames / seconds, memory)


def table(costs: Mapping[str, SystemCost], plan: Plan, streams: Sequence[int]) -> str:
    """A column per system; `-` where it failed."""
    rows = [
        ["time to ready, s", *(number(cost.ready) for cost in costs.values())],
        ["memory when ready, MiB", *(number(cost.memory_ready) for cost in costs.values())],
        *(
            [f"TTFT p{rank}, ms", *(number(percentile(cost.first_token, rank) * 1e3) for cost in costs.values())]
            for rank in (50, 99)
        ),
    ]
    for count in streams:
        held = [cost.held.get(count, _NOTHING) for cost in costs.values()]
        rows += [
            [f"{count} streams: gateway CPU, µs/frame", *(number(each.gateway_cpu * 1e6) for each in held)],
            ["worker CPU, µs/frame", *(number(each.worker_cpu * 1e6) for each in held)],
            [f"frames/s, of {count / plan.step:.0f}", *(number(each.frames_per_second) for each in held)],
            ["memory, MiB", *(number(each.memory) for each in held)],
        ]
    return markdown(("gateway", *costs), rows)
