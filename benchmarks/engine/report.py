"""The table of a run, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.engine.measure import Result
from benchmarks.table import markdown, number

_HEADER = (
    "engine",
    "streams",
    "tokens/s best",
    "median",
    "× generate",
    "× batching",
    "decode step ms",
    "× memory limit",
    "all first tokens ms",
    "equal rows",
)


def table(results: Sequence[Result], *, reference: str, rival: str, least_step: float) -> str:
    """One row per contender and number of streams; ratios are of medians, to `reference` and to `rival`.

    `least_step` is how long, in seconds, reading the weights once takes: the limit of a step of one stream.
    """
    rows = [
        [
            result.name,
            str(result.streams),
            number(result.best),
            number(result.median),
            _ratio(results, result, reference),
            _ratio(results, result, rival),
            number(result.step * 1e3),
            number(result.step / least_step) if result.streams == 1 else "-",
            number(result.first_tokens * 1e3),
            f"{result.equal}/{result.rows}",
        ]
        for result in results
    ]
    return markdown(_HEADER, rows)


def shares(results: Sequence[Result]) -> str:
    """Where our engine's time goes, by its own clocks, in per cent of the wall time."""
    parts = sorted({part for result in results for part in result.shares()})
    if not parts:
        return ""
    rows = [
        [result.name, str(result.streams), *(f"{100 * result.shares().get(part, 0.0):.1f}" for part in parts)]
        for result in results
        if result.runs and result.shares()
    ]
    return markdown(("share of wall time, %", "streams", *parts), rows)


def as_dict(results: Sequence[Result]) -> list[dict[str, object]]:
    """All runs, for a program to read."""
    return [
        {
            "engine": result.name,
            "streams": result.streams,
            "tokens_per_second": [round(run.throughput, 2) for run in result.runs],
            "decode_step_seconds": [round(run.step, 6) for run in result.runs],
            "first_tokens_seconds": [round(run.first_tokens, 6) for run in result.runs],
            "equal_rows": result.equal,
            "rows": result.rows,
            "shares": {part: round(share, 4) for part, share in result.shares().items()},
        }
        for result in results
    ]


def _ratio(results: Sequence[Result], of: Result, name: str) -> str:
    for other in results:
        if other.name == name and other.streams == of.streams:
            return number(of.median / other.median)
    return "-"
