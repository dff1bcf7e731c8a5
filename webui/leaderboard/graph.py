"""Who can be rated: a maximum of the likelihood exists only among models that reach each other by wins and ties."""

from __future__ import annotations

from enum import Enum

import numpy as np

from webui.leaderboard.cells import Bools, Cells


class Status(Enum):
    """Why a model has a rating, or has none."""

    RANKED = "ranked"
    UNDEFEATED = "undefeated"  # beats ranked models, directly or through others, and none gets at it
    WINLESS = "winless"  # the reverse
    UNCONNECTED = "unconnected"  # no chain of wins and ties to or from the ranked models


def statuses(cells: Cells) -> list[Status]:
    """The status of each model: the ranked ones are the strongly connected set with the most battles.

    An edge runs from i to j when i has beaten or tied j at least once (Ford 1957: the strengths of a set are finite
    exactly when each of its models reaches each other one).
    """
    size = len(cells.models)
    if size == 0:
        return []
    reach = _reach(cells)
    core = _core(cells, reach)
    return [_status(model, reach, core) for model in range(size)]


def connected(cells: Cells) -> bool:
    """Whether all models are one strongly connected set."""
    return bool(_reach(cells).all())


def _reach(cells: Cells) -> Bools:
    """[M, M]: whether a chain of wins and ties leads from the row's model to the column's."""
    size = len(cells.models)
    reach = np.eye(size, dtype=bool)
    reach[cells.first, cells.second] |= cells.wins + cells.ties > 0
    reach[cells.second, cells.first] |= cells.losses + cells.ties > 0
    for _ in range(max(size, 2).bit_length()):  # chains of twice the length each time
        counted = reach.astype(np.float32)  # matrix products of booleans do not use BLAS
        reach = counted @ counted > 0
    return reach


def _status(model: int, reach: Bools, core: Bools) -> Status:
    if core[model]:
        return Status.RANKED
    if reach[model, core].any():
        return Status.UNDEFEATED
    return Status.WINLESS if reach[core, model].any() else Status.UNCONNECTED


def _core(cells: Cells, reach: Bools) -> Bools:
    mutual = reach & reach.T
    inside = mutual[cells.first, cells.second]
    battles = np.zeros(len(cells.models))
    np.add.at(battles, mutual.argmax(axis=1)[cells.first[inside]], cells.battles[inside])
    # Sets are named by their first model; ties between sets fall to the larger, then to the first.
    order = battles[mutual.argmax(axis=1)] * (len(cells.models) + 1) + mutual.sum(axis=1)
    return mutual[int(order.argmax())]
