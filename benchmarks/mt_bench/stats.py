"""Statistics over questions: the question is what is drawn at random, since its turns hang together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAMPLES: Final = 10_000
SEED: Final = 0
_LEVEL: Final = 0.95
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its bootstrap interval of 95 %; without one if fewer than two questions are behind it."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def text(self) -> str:
        """For a table."""
        if self.n == 0:
            return "-"
        return f"{self.value:.2f}" + (f" [{self.low:.2f}, {self.high:.2f}]" if self.low is not None else "")


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of differences, its interval, and p of a sign-flip test of no difference; `p_holm` after Holm's correction
    for the number of tests beside it."""

    value: float
    low: float | None
    high: float | None
    questions: int
    p: float
    p_holm: float = float("nan")


def mean(groups: Mapping[object, Sequence[float]]) -> Mean:
    """The mean over all values, which are grouped by question; the interval draws questions, not values.

    n is the number of values.
    """
    filled = [values for values in groups.values() if values]
    n = sum(map(len, filled))
    if not n:
        return Mean(float("nan"), None, None, 0)
    sums = np.array([sum(values) for values in filled], dtype=np.float64)
    counts = np.array([len(values) for values in filled], dtype=np.float64)
    low, high = _interval(sums, counts)
    return Mean(float(sums.sum() / n), low, high, n)


def _interval(sums: Array, counts: Array) -> tuple[float, float] | tuple[None, None]:
    """Percentiles of the ratio of sums under redrawn questions."""
    questions = len(sums)
    if questions < 2:
        return None, None
    draws = _draws(questions)
    totals = draws @ np.column_stack([sums, counts])
    ratios = totals[:, 0] / totals[:, 1]
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=16)
def _draws(questions: int) -> Array:
    """How often each question is drawn, a row for each sample; the same ones for all means."""
    counts = np.random.default_rng(SEED).multinomial(questions, np.full(questions, 1 / questions), size=SAMPLES)
    return counts.astype(np.float64)


@lru_cache(maxsize=16)
def _signs(count: int) -> Array:
    return np.random.default_rng(SEED).choice(np.array([-1.0, 1.0]), size=(SAMPLES, count))


def difference(gaps: Mapping[object, Sequence[float]]) -> Difference | None:
    """Of differences that are grouped by question, such as one for each turn. None if there is none.

    As in `mean` each one counts the same, and the interval and the test draw whole questions.
    """
    found = mean(gaps)
    if not found.n:
        return None
    sums = np.array([sum(values) for values in gaps.values()], dtype=np.float64)
    return Difference(found.value, found.low, found.high, sum(map(bool, gaps.values())), sign_flip(sums))


def sign_flip(gaps: Array) -> float:
    """Two-sided p of the sum of the gaps, one for each question, if each gap's sign were a coin: exact up to 14 gaps,
    else from 10,000 draws."""
    moved = gaps[gaps != 0]
    if not len(moved):
        return 1.0
    exact = len(moved) <= 14
    if exact:
        signs: Array = np.array([*itertools.product((1.0, -1.0), repeat=len(moved))])
    else:
        signs = _signs(len(moved))
    # Equal up to rounding is as extreme.
    extreme = int((np.abs(signs @ moved) >= abs(moved.sum()) * (1 - 1e-12)).sum())
    return extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)


def holm(values: Sequence[float]) -> list[float]:
    """P-values of several tests, corrected after Holm."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected = [1.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, values[place] * (len(values) - rank)))
        corrected[place] = highest
    return corrected


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None where it is not defined."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    ranks = np.corrcoef(_ranks(first), _ranks(second))
    return float(ranks[0, 1])


def _ranks(values: Sequence[float]) -> Array:
    """Ranks, equal values sharing theirs."""
    given = np.asarray(values, dtype=np.float64)
    ordered = np.sort(given)
    return (np.searchsorted(ordered, given, "left") + np.searchsorted(ordered, given, "right")) / 2.0
