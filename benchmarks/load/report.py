"""The table of a run, and the same as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median

from benchmarks.load.wire_cost import WireCost, percentile
from benchmarks.table import markdown, number

_US = 1e6
_MS = 1e3

# What a row of the table is called, and how its value comes from one run. Every row shows the median of the runs.
_ROWS: tuple[tuple[str, Callable[[WireCost], float]], ...] = (
    ("gateway CPU, µs/token", lambda cost: cost.gateway_cpu * _US),
    ("worker CPU, µs/token, engine included", lambda cost: cost.worker_cpu * _US),
    ("tokens/s", lambda cost: cost.tokens_per_second),
    ("SSE frames/s", lambda cost: cost.frames_per_second),
    ("session messages per engine step", lambda cost: cost.messages_per_step),
    ("TTFT through the gateway p50, ms", lambda cost: percentile(cost.first_token, 50) * _MS),
    ("TTFT through the gateway p99, ms", lambda cost: percentile(cost.first_token, 99) * _MS),
    ("TTFT on the worker p50, ms", lambda cost: percentile(cost.first_token_direct, 50) * _MS),
    ("TTFT on the worker p99, ms", lambda cost: percentile(cost.first_token_direct, 99) * _MS),
    ("added TTFT p50, ms", lambda cost: _added(cost, 50) * _MS),
    ("added TTFT p99, ms", lambda cost: _added(cost, 99) * _MS),
    ("gateway memory when ready, MiB", lambda cost: cost.memory_ready),
    ("gateway memory under load, MiB", lambda cost: cost.memory_loaded),
    ("gateway time to ready, s", lambda cost: cost.ready),
    ("load generator CPU, µs/token", lambda cost: cost.load_cpu * _US),
)


def table(modes: Sequence[Sequence[WireCost]], engine_cpu: Sequence[float]) -> str:
    """One column per mode, and for CPU the ratio of the last to the first.

    `engine_cpu` is the scripted engine's in seconds per token, one figure per run.
    """
    header = ("per token, step or process", *(runs[0].mode.name for runs in modes), "ratio")
    engine = median(engine_cpu)

    def wire_alone(cost: WireCost) -> float:
        return (cost.worker_cpu - engine) * _US

    rows = [_row(name, value, modes) for name, value in _ROWS]
    rows.insert(2, _row("worker CPU, µs/token, wire alone", wire_alone, modes))
    rows.append(["scripted engine alone, µs/token", *[number(engine * _US)] * len(modes), ""])
    return markdown(header, rows)


def as_dict(cost: WireCost) -> dict[str, object]:
    """One run, for a program to read."""
    return asdict(cost)


def _row(name: str, value: Callable[[WireCost], float], modes: Sequence[Sequence[WireCost]]) -> list[str]:
    found = [median(value(cost) for cost in runs) for runs in modes]
    # A short run may have cost less than the clock of CPU time tells apart.
    ratio = number(found[-1] / found[0]) if len(found) > 1 and "CPU" in name and found[0] else ""
    return [name, *map(number, found), ratio]


def _added(cost: WireCost, rank: int) -> float:
    return percentile(cost.first_token, rank) - percentile(cost.first_token_direct, rank)
