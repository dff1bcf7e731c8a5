"""The table of `benchmarks.load`."""

from __future__ import annotations

from benchmarks.load.report import table
from benchmarks.load.wire_cost import PER_REQUEST, SESSION, Mode, WireCost


def cost(mode: Mode, cpu: float) -> WireCost:
    return WireCost(mode, cpu, cpu, cpu, 400.0, 400.0, 1.0, 0.5, 60.0, 70.0, (0.01,), (0.01,))


def ratio(first: float, last: float) -> str:
    """Of the gateway's CPU time, as the table shows it."""
    lines = table([[cost(SESSION, first)], [cost(PER_REQUEST, last)]], [1e-6])
    (line,) = [line for line in lines.splitlines() if "gateway CPU" in line]
    return line.split("|")[-2].strip()


def test_a_cost_too_small_to_be_seen_has_no_ratio() -> None:
    assert ratio(2e-5, 6e-5) == "3.00"
    assert ratio(0.0, 6e-5) == ""
