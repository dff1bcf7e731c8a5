"""`python -m benchmarks.load`: CPU per streamed token, one session per worker beside one gRPC stream per request."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import engine_only, report, side_by_side
from benchmarks.load.side_by_side import SystemCost
from benchmarks.load.wire_cost import PER_REQUEST, SESSION, Plan, WireCost, measure
from benchmarks.machine import Machine, cores, describe
from benchmarks.processes import ProcessFailed, first_line
from benchmarks.systems import SYSTEMS


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    options = _parser().parse_args(argv)
    plan = _plan(options)
    machine = describe()
    if options.peers is not None:
        _run_side_by_side(machine, plan, options.peers or [*SYSTEMS])
        return
    try:
        costs, engine_cpu = _run(plan, options.repeat)
    except ProcessFailed as error:
        sys.exit(f"benchmarks.load: {error}")
    conditions = _conditions(plan, options.repeat)
    lines = "\n".join(f"- {line}" for line in [*machine.lines(), *conditions])
    print(f"{lines}\n\n{report.table(costs, engine_cpu)}")
    if options.json:
        options.json.write_text(json.dumps(_data(machine, conditions, costs, engine_cpu), indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__, allow_abbrev=False)
    parser.add_argument("--streams", type=_positive(int), default=64, help="live SSE streams (64)")
    parser.add_argument("--step-ms", type=_positive(float), default=20.0, help="pace of the scripted engine (20)")
    parser.add_argument("--window", type=_positive(float), default=10.0, help="seconds that are measured (10)")
    parser.add_argument("--settle", type=_positive(float), default=2.0, help="seconds before that (2)")
    parser.add_argument("--asks", type=_positive(int), default=150, help="requests for the time to first token (150)")
    parser.add_argument("--repeat", type=_positive(int), default=2, help="interleaved runs of each mode (2)")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=[*SYSTEMS],
        metavar="NAME",
        help=f"side by side, also with 4 × --streams: {', '.join(SYSTEMS)} (all)",
    )
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=sys.platform == "linux" and cores() > 1,
        help="the gateway on one core, all else on another (where that is possible)",
    )
    parser.add_argument("--json", type=Path, help="also write all runs into this file")
    return parser


def _positive(kind: type[int] | type[float]) -> type[int] | type[float]:
    """A parser of numbers above zero; argparse names the type in its message, hence the name."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    parse.__name__ = kind.__name__
    return parse  # pyright: ignore[reportReturnType]


def _plan(options: argparse.Namespace) -> Plan:
    allowed = sorted(os.sched_getaffinity(0)) if options.pin else []
    return Plan(
        streams=options.streams,
        step=options.step_ms / 1e3,
        window=options.window,
        settle=options.settle,
        asks=options.asks,
        gateway_core=allowed[0] if options.pin else None,
        other_core=allowed[-1] if options.pin else None,
    )


def _run(plan: Plan, repeat: int) -> tuple[list[list[WireCost]], list[float]]:
    """Interleaved: session, per request, engine alone, and again."""
    costs: list[list[WireCost]] = [[], []]
    engine_cpu: list[float] = []
    for repetition in range(repeat):
        for runs, mode in zip(costs, (SESSION, PER_REQUEST), strict=True):
            _tell(f"run {repetition + 1} of {repeat}: {mode.name}")
            runs.append(measure(mode, plan))
        _tell(f"run {repetition + 1} of {repeat}: scripted engine alone")
        engine_cpu.append(engine_only.measure(plan.streams, plan.step, plan.window / 2, core=plan.other_core))
    return costs, engine_cpu


def _run_side_by_side(machine: Machine, plan: Plan, names: Sequence[str]) -> None:
    """Each system in turn; one that is not installed or fails is named, with the reason."""
    found: dict[str, SystemCost] = {}
    failed: list[str] = []
    streams = (plan.streams, 4 * plan.streams)
    for name in names:
        system = SYSTEMS[name]
        if not system.installed():
            failed.append(f"{name} is not installed in {system.environment}")
            continue
        _tell(f"{name}: starting")
        try:
            found[name] = cost = side_by_side.measure(system, plan, streams)
            failed += (f"{name} failed with {count} streams: {why}" for count, why in cost.failed.items())
        except (ProcessFailed, TimeoutError) as error:
            failed.append(f"{name} failed: {first_line(error)}")
    pinned = "gateway on a core of its own, the rest on another" if plan.gateway_core is not None else "not pinned"
    conditions = (
        f"one scripted worker that makes a token per stream every {plan.step * 1e3:g} ms, {plan.window:g} s after "
        f"{plan.settle:g} s to settle, {pinned}; TTFT of {plan.asks} requests one after the other, with a worker that "
        "answers at once"
    )
    print("\n".join(f"- {line}" for line in [*machine.lines(), conditions, *failed]))
    if found:
        print("\n" + side_by_side.table(found, plan, streams))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _conditions(plan: Plan, repeat: int) -> list[str]:
    pinned = "gateway on a core of its own, the rest on another" if plan.gateway_core is not None else "not pinned"
    return [
        f"{plan.streams} streams, one token per {plan.step * 1e3:g} ms each, {plan.window:g} s after "
        f"{plan.settle:g} s to settle, {pinned}, medians of {repeat} interleaved runs",
        f"time to first token: {plan.asks} requests one after the other on an idle mesh, through the gateway and "
        "by a plain Generate on the worker",
    ]


def _data(
    machine: Machine, conditions: list[str], costs: list[list[WireCost]], engine_cpu: list[float]
) -> dict[str, object]:
    return {
        "machine": machine.as_dict(),
        "conditions": conditions,
        "runs": [report.as_dict(cost) for runs in costs for cost in runs],
        "engine_alone_cpu_seconds_per_token": engine_cpu,
    }


if __name__ == "__main__":
    main()
