"""How much the judges of a run agree with each other, about the same answers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.mt_bench import stats
from benchmarks.mt_bench.agreement import Choice, Vote, pair_votes
from benchmarks.mt_bench.counts import item
from benchmarks.mt_bench.records import Pair, Single, by_judge

T = TypeVar("T")
# What judges said, by what it is about.
Said = Mapping[tuple[object, ...], T]


@dataclass(frozen=True, slots=True)
class Alike:
    """Agreement of some judges about the `n` judgments that at least two of them made.

    `equal` is the share on which all of these agree. `alpha` is Krippendorff's: of grades with squared distances, of
    comparisons nominal; 1 is agreement, 0 what chance would give, None where all said the same of everything. Of the
    grades of two judges there are also Spearman's correlation and the mean distance.
    """

    judges: tuple[str, ...]
    kind: str
    n: int
    equal: float
    alpha: float | None
    correlation: float | None = None
    distance: float | None = None


def alike(singles: Sequence[Single], pairs: Sequence[Pair]) -> list[Alike]:
    """Of all judges, if there are more than two, and of each two: grades first."""
    grades: dict[str, Said[float]] = {
        judge: {item(line)[:3]: float(line.score) for line in mine if line.scored}
        for judge, mine in by_judge(singles).items()
    }
    choices: dict[str, Said[Choice]] = {
        judge: {_about(vote): vote.choice for vote in pair_votes(mine)} for judge, mine in by_judge(pairs).items()
    }
    return [*_each(grades, _of_grades), *_each(choices, _of_choices)]


def _about(vote: Vote) -> tuple[object, ...]:
    return (vote.question, vote.turn, vote.model_a, vote.model_b)


def _each(said: Mapping[str, Said[T]], agree: Callable[[tuple[str, ...], list[list[T]]], Alike]) -> list[Alike]:
    groups: list[tuple[str, ...]] = [*([tuple(said)] if len(said) > 2 else []), *itertools.combinations(said, 2)]
    found = [(judges, _units([said[judge] for judge in judges])) for judges in groups]
    return [agree(judges, units) for judges, units in found if units]


def _units(said: Sequence[Said[T]]) -> list[list[T]]:
    """What was said about each thing of which at least two said something."""
    keys = dict.fromkeys(itertools.chain.from_iterable(said))
    units = [[mine[key] for mine in said if key in mine] for key in keys]
    return [unit for unit in units if len(unit) > 1]


def _of_grades(judges: tuple[str, ...], units: list[list[float]]) -> Alike:
    correlation = distance = None
    if len(judges) == 2:
        first, second = zip(*units, strict=True)
        correlation = stats.rank_correlation(first, second)
        distance = sum(abs(a - b) for a, b in units) / len(units)
    found = alpha(units, lambda a, b: (a - b) ** 2)
    return Alike(judges, "grades", len(units), _equal(units), found, correlation, distance)


def _of_choices(judges: tuple[str, ...], units: list[list[Choice]]) -> Alike:
    return Alike(judges, "comparisons", len(units), _equal(units), alpha(units, lambda a, b: float(a != b)))


def _equal(units: Sequence[Sequence[object]]) -> float:
    return sum(len(set(unit)) == 1 for unit in units) / len(units)


def alpha(units: Iterable[Sequence[T]], distance: Callable[[T, T], float]) -> float | None:
    """Krippendorff's alpha of what judges said about each unit, at least two of them; None where nothing differs."""
    observed = 0.0
    values: Counter[T] = Counter()
    for unit in units:
        values.update(unit)
        observed += _apart(Counter(unit), distance) / (len(unit) - 1)
    expected = _apart(values, distance) / (values.total() - 1) if values else 0.0
    return 1 - observed / expected if expected else None


def _apart(values: Counter[T], distance: Callable[[T, T], float]) -> float:
    """The distances of all ordered pairs, added up."""
    return sum(m * n * distance(a, b) for a, m in values.items() for b, n in values.items())
