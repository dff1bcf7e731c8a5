"""How much of a ranking hangs on few votes: who would lead if the most influential ones were taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from webui.leaderboard.bradley_terry import NotIdentified, curvature, maximise, sigmoid
from webui.leaderboard.cells import Cells, Floats, Ints
from webui.leaderboard.graph import connected
from webui.leaderboard.threads import one_thread

# Beyond this part of the votes the lead hangs on no few votes.
_LIMIT: Final = 0.05
_RIVALS: Final = 5


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The leader, and the rival who would lead without `votes` of the votes; both None if none within `limit` does.

    The votes were chosen by their first-order influence and the fit without them was made, so the lead is lost with so
    few; that it takes no fewer is not proven.
    """

    leader: str
    rival: str | None
    votes: int | None
    limit: int


@one_thread
def sensitivity(cells: Cells, theta: Floats) -> Sensitivity | None:
    """What the first place hangs on; None for fewer than two models. `theta` is the fit of `cells`."""
    order: list[int] = np.argsort(-theta, kind="stable").tolist()
    if len(order) < 2:
        return None
    leader, limit = order[0], max(1, int(cells.total * _LIMIT))
    inverse = np.asarray(np.linalg.inv(curvature(cells, theta)), np.float64)
    found: list[tuple[int, str]] = []
    for rival in order[1 : 1 + _RIVALS]:
        ranked = _by_influence(cells, theta, inverse, leader, rival)
        fewest = found[0][0] - 1 if found else limit
        votes = _fewest(cells, theta, ranked, (leader, rival), fewest)
        if votes is not None:
            found = [(votes, cells.models[rival])]
    return Sensitivity(cells.models[leader], found[0][1] if found else None, found[0][0] if found else None, limit)


def _by_influence(cells: Cells, theta: Floats, inverse: Floats, leader: int, rival: int) -> Ints:
    """Kinds of votes (outcome × pair, as in `np.stack([wins, losses, ties])`) by what one adds to the lead, most first.

    A vote of score y on (i, j) moves θ by H⁻¹(e_i − e_j)(y − p) / (1 − h), h being its leverage.
    """
    chance = sigmoid(theta[cells.first] - theta[cells.second])
    lead = inverse[leader] - inverse[rival]
    spread = inverse[cells.first, cells.first] + inverse[cells.second, cells.second]
    leverage = chance * (1 - chance) * (spread - 2 * inverse[cells.first, cells.second])
    slope = (lead[cells.first] - lead[cells.second]) / np.maximum(1 - leverage, 1e-6)
    influence = np.stack([slope * (1 - chance), slope * -chance, slope * (0.5 - chance)]).ravel()
    helpful = np.flatnonzero(influence > 0)
    return helpful[np.argsort(-influence[helpful], kind="stable")]


def _fewest(cells: Cells, theta: Floats, ranked: Ints, two: tuple[int, int], limit: int) -> int | None:
    """The least number of votes, in that order, without which the rival is ahead; by bisection."""
    low, high = 0, limit
    if limit < 1 or not _overtaken(cells, theta, ranked, two, limit):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _overtaken(cells, theta, ranked, two, middle):
            high = middle
        else:
            low = middle
    return high


def _overtaken(cells: Cells, theta: Floats, ranked: Ints, two: tuple[int, int], votes: int) -> bool:
    left = np.stack([cells.wins, cells.losses, cells.ties])
    flat = left.reshape(-1)
    taken = np.minimum(flat[ranked], np.maximum(0, votes - (np.cumsum(flat[ranked]) - flat[ranked])))
    flat[ranked] -= taken
    met = left.sum(axis=0) > 0
    rest = Cells(cells.models, cells.first[met], cells.second[met], *left[:, met])
    if not connected(rest):
        return False
    try:
        fitted, _ = maximise(rest, theta)
    except NotIdentified:
        return False
    return bool(fitted[two[1]] - fitted[two[0]] > 1e-9)  # equal strengths are no overtaking
