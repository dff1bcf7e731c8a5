"""Online Elo: each battle moves two ratings. It depends on the order of battles, so it is a history, not a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from webui.leaderboard.ballots import SCORES, Ballots
from webui.leaderboard.categories import counts
from webui.leaderboard.cells import Floats


@dataclass(frozen=True, slots=True)
class History:
    """Ratings [P, M] after so many battles [P]; NaN before a model's first battle."""

    after: npt.NDArray[np.int64]
    ratings: Floats


def history(ballots: Ballots) -> tuple[tuple[str, ...], History]:
    """The models by name, and what the votes that count made of them in their order."""
    counted = [group for group in ballots.groups if counts(group)]
    models = tuple(sorted({name for group in counted for name in (group.model_a, group.model_b)}))
    places = {name: place for place, name in enumerate(models)}
    rows = ballots.group[np.array([counts(group) for group in ballots.groups], bool)[ballots.group]]
    # A group that does not count may have no models here; none of the rows is of it.
    a = np.array([places.get(group.model_a, 0) for group in ballots.groups], np.int64)[rows]
    b = np.array([places.get(group.model_b, 0) for group in ballots.groups], np.int64)[rows]
    score = np.array([SCORES[group.choice] for group in ballots.groups], np.float64)[rows]
    return models, elo(len(models), a, b, score)


def elo(
    models: int,
    a: npt.NDArray[np.integer],
    b: npt.NDArray[np.integer],
    score: Floats,
    *,
    k: float = 4,
    scale: float = 400,
    base: float = 10,
    start: float = 1000,
    points: int = 100,
) -> History:
    """Play the battles in their order. `a`, `b` [N] are models, `score` [N] is what A got; `points` times are kept."""
    ratings = [start] * models
    met = [False] * models
    stops = np.unique(np.linspace(0, len(score), points + 1).astype(np.int64))[1:]
    kept = np.full((len(stops), models), np.nan)
    begin = 0
    for row, stop in enumerate(stops):
        rows = slice(begin, int(stop))
        _play(ratings, met, a[rows].tolist(), b[rows].tolist(), score[rows].tolist(), k, scale, base)
        kept[row] = [rating if seen else np.nan for rating, seen in zip(ratings, met, strict=True)]
        begin = int(stop)
    return History(stops, kept)


def _play(
    ratings: list[float],
    met: list[bool],
    a: Sequence[int],
    b: Sequence[int],
    score: Sequence[float],
    k: float,
    scale: float,
    base: float,
) -> None:
    # Python's own numbers: one battle after the other leaves nothing to vectorise, and numpy's scalars are slower.
    for left, right, points in zip(a, b, score, strict=True):
        expected = 1 / (1 + base ** ((ratings[right] - ratings[left]) / scale))
        change = k * (points - expected)
        ratings[left] += change
        ratings[right] -= change
        met[left] = met[right] = True
