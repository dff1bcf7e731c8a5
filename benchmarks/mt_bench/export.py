"""Results for other programs: JSON with all numbers, CSV with one number a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from benchmarks.mt_bench.duels import Duels
from benchmarks.mt_bench.grades import Grades
from benchmarks.mt_bench.results import Results
from benchmarks.mt_bench.stats import Mean

_COLUMNS: Final[Sequence[str]] = "judge model against what turn category value low high n".split()
Row = dict[str, object]


def as_json(results: Results) -> str:
    """All numbers, without the judgments themselves. What there is no number for is null."""
    left_out = ("singles", "pairs")
    data = {name: getattr(results, name) for name in Results.__slots__ if name not in left_out}
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n"


def as_csv(results: Results) -> str:
    """One number a row, with its interval of 95 % and the judgments behind it."""
    out = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(out, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for grades in results.grades:
        writer.writerows(_grades(grades))
    for duels in results.duels:
        writer.writerows(_duels(duels))
    return out.getvalue()


def _mean(mean: Mean) -> Row:
    if not mean.n:
        return {"n": 0}
    return {"value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}


def _grades(grades: Grades) -> Iterator[Row]:
    for each in grades.models:
        row: Row = {"judge": grades.judge, "model": each.model}
        yield row | {"what": "score"} | _mean(each.overall)
        for turn, mean in each.turns.items():
            yield row | {"what": "score", "turn": turn} | _mean(mean)
        for category, mean in each.categories.items():
            yield row | {"what": "score", "category": category} | _mean(mean)
        for name in ("unscored", "failed", "missing"):
            yield row | {"what": name, "value": getattr(each.counts, name)}
    for gap in grades.gaps:
        found = gap.difference
        row = {"judge": grades.judge, "model": gap.first, "against": gap.second, "n": found.questions}
        yield row | {"what": "difference", "value": found.value, "low": found.low, "high": found.high}
        yield row | {"what": "p", "value": found.p}
        yield row | {"what": "p (Holm)", "value": found.p_holm}


def _duels(duels: Duels) -> Iterator[Row]:
    for each in duels.models:
        row: Row = {"judge": duels.judge, "model": each.model}
        yield row | {"what": "adjusted win rate"} | _mean(each.record.adjusted)
        for turn, record in each.turns.items():
            yield row | {"what": "adjusted win rate", "turn": turn} | _mean(record.adjusted)
        if each.weighted is not None:
            yield row | {"what": "weighted win rate"} | _mean(each.weighted)
        for name in ("unscored", "failed", "missing"):
            yield row | {"what": name, "value": getattr(each.counts, name)}
    for each in duels.contests:
        row = {"judge": duels.judge, "model": each.first, "against": each.second}
        for name in ("wins", "ties", "losses"):
            yield row | {"what": name, "value": getattr(each.record, name), "n": each.record.n}
        yield row | {"what": "adjusted win rate"} | _mean(each.record.adjusted)
        yield row | {"what": "p", "value": each.p}
        yield row | {"what": "p (Holm)", "value": each.p_holm}
    if (style := duels.style) is not None:
        for each in style.strengths:
            row = {"judge": duels.judge, "model": each.model, "against": style.baseline}
            yield row | {"what": "win rate with equal style", "value": each.rate, "low": each.low, "high": each.high}
    row = {"judge": duels.judge, "n": duels.bias.n}
    yield row | {"what": "consistent when swapped", "value": duels.bias.consistency}
    yield row | {"what": "favours first", "value": duels.bias.first}
    yield row | {"what": "favours second", "value": duels.bias.second}
