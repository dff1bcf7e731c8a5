"""Win rates with style held constant: a Bradley–Terry model in which length and markup have their own weights.

As Arena-Hard does it: the difference of two answers in length is relative to their sum, that in headers, lists and bold
words relative to their density; each is standardised. The weights are fitted together with the models' strengths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.mt_bench.questions import QuestionId

FEATURES: Final[tuple[str, ...]] = ("length", "headers", "lists", "bold")
_HEADERS: Final = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LISTS: Final = re.compile(r"^\s*(?:[-*+]|[0-9]+[.)])\s", re.MULTILINE)
_BOLD: Final = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
_CODE: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
# Keeps the fit finite where a model wins or loses all; far too small to be seen otherwise.
_RIDGE: Final = 1e-3
_STEPS, _ENOUGH = 50, 1e-9
_NORMAL: Final = 1.96  # of 95 %
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Battle:
    """Two answers to a question, and how much the first one won: 1, 0 or, for a tie, 0.5."""

    question: QuestionId
    first: str
    second: str
    first_text: str
    second_text: str
    outcome: float


@dataclass(frozen=True, slots=True)
class Strength:
    """The chance to win against the baseline that a model would have if style were equal, and its interval of 95 %."""

    model: str
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Controlled:
    """Strengths, and the weight of each style feature (in logits for a standard deviation)."""

    baseline: str
    strengths: list[Strength]
    weights: dict[str, float]


def style(text: str) -> tuple[float, float, float, float]:
    """Words, headers, list items and bold words of an answer; markup within code is none."""
    plain = _CODE.sub("", text)
    words = float(len(text.split()))
    return words, *(float(len(pattern.findall(plain))) for pattern in (_HEADERS, _LISTS, _BOLD))  # pyright: ignore[reportReturnType]


def control(battles: Sequence[Battle], baseline: str) -> Controlled | None:
    """Fit all battles; the intervals hold for questions that hang together. None if the baseline has no battle, there
    are too few, or all answers have the same style."""
    models = sorted({model for battle in battles for model in (battle.first, battle.second)} - {baseline})
    if not models or all(baseline not in (battle.first, battle.second) for battle in battles):
        return None
    if len(battles) < len(models) + len(FEATURES) + 2:
        return None
    gaps = _how(battles)
    if not gaps.any():
        return None
    design = np.hstack([_who(battles, models), gaps])
    outcomes = np.array([battle.outcome for battle in battles])
    fitted = _fit(design, outcomes)
    reach = _NORMAL * _errors(design, outcomes, fitted, [battle.question for battle in battles])
    strengths = [
        Strength(model, *(float(_logistic(values[place])) for values in (fitted, fitted - reach, fitted + reach)))
        for place, model in enumerate(models)
    ]
    weights: dict[str, float] = dict(zip(FEATURES, map(float, fitted[len(models) :]), strict=True))
    return Controlled(baseline, sorted(strengths, key=lambda each: -each.rate), weights)


def _who(battles: Sequence[Battle], models: Sequence[str]) -> Array:
    """+1 for the first model, -1 for the second; the baseline has no column, its strength is 0."""
    columns = {model: place for place, model in enumerate(models)}
    design = np.zeros((len(battles), len(models)))
    for row, battle in enumerate(battles):
        if battle.first in columns:
            design[row, columns[battle.first]] += 1.0
        if battle.second in columns:
            design[row, columns[battle.second]] -= 1.0
    return design


def _how(battles: Sequence[Battle]) -> Array:
    """Standardised differences of style; a feature that never differs has zeros."""
    first = np.array([style(battle.first_text) for battle in battles])
    second = np.array([style(battle.second_text) for battle in battles])
    lengths = first[:, :1] + second[:, :1]
    length = (first[:, :1] - second[:, :1]) / np.maximum(lengths, 1.0)
    dense_first = first[:, 1:] / np.maximum(first[:, :1], 1.0)
    dense_second = second[:, 1:] / np.maximum(second[:, :1], 1.0)
    markup = (dense_first - dense_second) / (dense_first + dense_second + 1.0)
    gaps = np.hstack([length, markup])
    # Not centred: which of two answers is called the first must not matter.
    spread = np.sqrt((gaps**2).mean(axis=0))
    return gaps / np.where(spread > 0, spread, 1.0)


def _fit(design: Array, outcomes: Array) -> Array:
    """Logistic regression by Newton's method."""
    found = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = _logistic(design @ found)
        gradient = design.T @ (outcomes - chance) - _RIDGE * found
        step = np.linalg.solve(_curvature(design, chance), gradient)
        # A longer step overshoots where the data hardly hold the fit.
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        found = found + step
        if float(np.abs(step).max()) < _ENOUGH:
            break
    return found


def _curvature(design: Array, chance: Array) -> Array:
    return (design * (chance * (1 - chance))[:, None]).T @ design + _RIDGE * np.eye(design.shape[1])


def _errors(design: Array, outcomes: Array, fitted: Array, questions: Sequence[QuestionId]) -> Array:
    """Standard errors with whole questions as what was drawn (the sandwich of clustered data)."""
    place = {question: at for at, question in enumerate(dict.fromkeys(questions))}
    count = len(place)
    chance = _logistic(design @ fitted)
    pulls = np.zeros((count, design.shape[1]))
    np.add.at(pulls, [place[question] for question in questions], design * (outcomes - chance)[:, None])
    bread = np.linalg.inv(_curvature(design, chance))
    spread = bread @ (pulls.T @ pulls) @ bread * count / max(count - 1, 1)
    return np.sqrt(np.diag(spread))


def _logistic(value: Array | float) -> Array:
    return 1.0 / (1.0 + np.exp(-np.asarray(value, dtype=np.float64)))
