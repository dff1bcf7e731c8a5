"""Battles counted: all that a Bradley–Terry fit needs to know of a million votes is a few thousand counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Outcomes as numbers: the score of side A.
A_WINS, B_WINS, TIE = 1.0, 0.0, 0.5


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts by pair of models and outcome.

    `first` and `second` [C] index `models`, first < second, each pair once; `wins` [C] are the votes for the first,
    `losses` [C] those for the second, `ties` [C] the rest (both kinds of tie). Counts may be fractions: weights.
    """

    models: tuple[str, ...]
    first: Ints
    second: Ints
    wins: Floats
    losses: Floats
    ties: Floats

    @property
    def battles(self) -> Floats:
        """Battles of each pair [C]."""
        return self.wins + self.losses + self.ties

    @property
    def total(self) -> float:
        """All battles."""
        return float(self.battles.sum())

    @property
    def scores(self) -> Floats:
        """Points of the first model of each pair [C]: a tie is half a win."""
        return self.wins + self.ties / 2

    def per_model(self) -> Floats:
        """Battles of each model [M]."""
        return scatter(self.first, self.battles, len(self.models)) + scatter(
            self.second, self.battles, len(self.models)
        )

    def matrix(self, values: Floats) -> Floats:
        """A number per pair [C] as a symmetric matrix [M, M], zero where two models have not met."""
        size = len(self.models)
        table = scatter(self.first * size + self.second, values, size * size).reshape(size, size)
        return table + table.T

    def with_counts(self, wins: Floats, losses: Floats, ties: Floats) -> Cells:
        """The same pairs with other counts [C]."""
        return Cells(self.models, self.first, self.second, wins, losses, ties)

    def only(self, kept: Bools) -> Cells:
        """The battles between the models of the mask `kept` [M]."""
        position = np.cumsum(kept) - 1
        rows = kept[self.first] & kept[self.second]
        return Cells(
            tuple(name for name, keep in zip(self.models, kept, strict=True) if keep),
            *(position[self.first[rows]], position[self.second[rows]]),
            *(self.wins[rows], self.losses[rows], self.ties[rows]),
        )


def count(
    models: Sequence[str],
    a: npt.NDArray[np.integer],
    b: npt.NDArray[np.integer],
    score: npt.ArrayLike,
    times: npt.ArrayLike | None = None,
) -> Cells:
    """Count battles: `a` and `b` [N] index `models`, `score` [N] is what A got: 1, 0 or 0.5.

    `times` [N] says how often each counts, once by default. Battles of a model with
    itself say nothing and are left out. Raises ValueError for other scores or indices.
    """
    size = len(models)
    side_a, side_b, points = np.asarray(a, np.int64), np.asarray(b, np.int64), np.asarray(score, np.float64)
    weights = np.ones(len(points)) if times is None else np.asarray(times, np.float64)
    _check(side_a, side_b, points, weights, size)
    swapped = side_a > side_b
    low, high = np.where(swapped, side_b, side_a), np.where(swapped, side_a, side_b)
    points = np.where(swapped, 1 - points, points)
    key = (low * size + high) * 3 + (2 * points).astype(np.int64)
    table = scatter(key, weights, size * size * 3).reshape(size * size, 3)
    table[np.arange(size) * (size + 1)] = 0
    met = np.flatnonzero(table.sum(axis=1) > 0)
    return Cells(tuple(models), met // size, met % size, table[met, 2], table[met, 0], table[met, 1])


def from_counts(rows: Iterable[tuple[str, str, float, float]]) -> Cells:
    """Cells of rows (model A, model B, score of A, how often), in any order; models are sorted by name."""
    listed = list(rows)
    models = sorted({name for row in listed for name in row[:2]})
    index = {name: position for position, name in enumerate(models)}
    return count(
        models,
        np.array([index[row[0]] for row in listed], np.int64),
        np.array([index[row[1]] for row in listed], np.int64),
        np.array([row[2] for row in listed], np.float64),
        np.array([row[3] for row in listed], np.float64),
    )


def scatter(index: Ints, values: Floats, size: int) -> Floats:
    """The sum of the values of each index [size]."""
    # numpy types all counts as integers, weighted ones are float64.
    return np.asarray(np.bincount(index, weights=values, minlength=size), np.float64)


def _check(a: Ints, b: Ints, points: Floats, weights: Floats, size: int) -> None:
    if not len(a) == len(b) == len(points) == len(weights):
        raise ValueError("a, b, score and times must have one length")
    if len(a) and (min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= size):
        raise ValueError(f"an index of a model is outside 0..{size - 1}")
    if not np.isin(points, (0, 0.5, 1)).all():
        raise ValueError("a score must be 0, 0.5 or 1")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("a count must be finite and not negative")
