"""What a load has shown, as numbers, as JSON, and as a table. Times are in seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mesh.cli.throughput.load import Load

_COLUMNS = ("mean", "p50", "p90", "p99", "max")
_ERRORS = 5
_ROWS = {
    "first_token": "time to first token",
    "per_output_token": "time per output token",
    "end_to_end": "end to end",
}


def summary(load: Load) -> dict[str, Any]:
    """All numbers."""
    answers = list(load.answers)
    seconds, tokens = load.seconds, load.tokens
    done = len(answers) + len(load.errors)
    return {
        "requests": load.planned,
        "answered": len(answers),
        "failed": len(load.errors),
        "errors": dict(Counter(load.errors).most_common()),
        "seconds": round(seconds, 4),
        "requests_per_second": _share(done, seconds),
        "prompt_tokens": sum((answer.end and answer.end.prompt_tokens) or 0 for answer in answers),
        "output_tokens": tokens,
        "output_tokens_per_second": _share(tokens, seconds),
        "first_token": spread(answer.first_token for answer in answers if answer.first_token is not None),
        "per_output_token": spread(answer.writing / (answer.tokens - 1) for answer in answers if answer.tokens > 1),
        "end_to_end": spread(answer.seconds for answer in answers),
    }


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Mean, percentiles (the nearest value that was there) and maximum; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    ranks = {f"p{percent}": math.ceil(len(ordered) * percent / 100) - 1 for percent in (50, 90, 99)}
    found = {"mean": sum(ordered) / len(ordered), **{name: ordered[at] for name, at in ranks.items()}}
    return {name: round(value, 6) for name, value in {**found, "max": ordered[-1]}.items()}


def view(title: str, load: Load) -> Group:
    """For people, also while it runs."""
    numbers = summary(load)
    counts = [f"{numbers['answered']} of {load.planned} answered", f"{len(load.running)} under way"]
    if numbers["failed"]:
        counts.append(f"{numbers['failed']} failed")
    pace = [f"{numbers['requests_per_second']:.1f} requests/s", f"{numbers['output_tokens_per_second']:.1f} tokens/s"]
    lines = [Text(title, style="bold"), Text(" · ".join([*counts, f"{load.seconds:.1f} s"])), Text(" · ".join(pace))]
    found = list(numbers["errors"].items())
    errors = [Text(f"{count} × {error}", style="red") for error, count in found[:_ERRORS]]
    if len(found) > _ERRORS:
        errors.append(Text(f"and {len(found) - _ERRORS} other errors", style="red"))
    return Group(*lines, _table(numbers), *errors)


def _table(numbers: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for key, label in _ROWS.items():
        values: dict[str, float] = numbers[key] or {}
        table.add_row(label, *(_time(values.get(name)) for name in _COLUMNS))
    return table


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _share(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds else 0.0
