"""The rating engine beside evalica and FastChat's method (L-BFGS on the same likelihood), on the same votes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np

from benchmarks.arena.crowd import pairs, world
from webui.leaderboard.bootstrap import bootstrap
from webui.leaderboard.bradley_terry import fit
from webui.leaderboard.cells import Floats, Ints, count, scatter
from webui.leaderboard.context import fit_in_context
from webui.leaderboard.elo import elo

BATTLES: Final = 1_000_000
MODELS: Final = 100
_STYLE: Final = np.array([0.2, 0.05, 0.02, 0.0])


def measure(battles: int = BATTLES) -> list[tuple[str, float, str]]:
    """Rows of what was done, seconds, and how far the result is from the exact one."""
    rng = np.random.default_rng(0)
    there = world(rng, MODELS)
    a, b = pairs(rng, MODELS, battles)
    style = rng.normal(size=(battles, len(_STYLE)))
    score = there.votes(rng, a, b)
    names = there.names
    cells, counting = _timed(lambda: count(names, a, b, score))
    exact, fitting = _timed(lambda: fit(cells))
    rows = [
        ("count by pair", counting, "-"),
        ("fit with sandwich intervals", fitting, "exact"),
        ("100 bootstrap fits", _timed(lambda: bootstrap(cells, exact.theta))[1], "-"),
        (
            "style control, 4 covariates, with intervals",
            _timed(lambda: fit_in_context(MODELS, a, b, score, style))[1],
            "-",
        ),
        ("online Elo", _timed(lambda: elo(MODELS, a, b, score))[1], "-"),
    ]
    for name, theirs in (("evalica", _evalica), ("FastChat's method: L-BFGS from zero, gtol 1e-6", _lbfgs)):
        found, seconds = _timed(lambda theirs=theirs: theirs(names, a, b, score))
        rows.append((f"{name}, fit alone", seconds, f"{_points_apart(found, exact.theta):.2g} points"))
    return rows


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    return run(), time.perf_counter() - begun


def _points_apart(found: Floats, exact: Floats) -> float:
    return float(400 / np.log(10) * np.abs(found - found.mean() - exact).max())


def _evalica(names: list[str], a: Ints, b: Ints, score: Floats) -> Floats:
    import evalica

    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    winners = [winner[value] for value in score.tolist()]
    left, right = ([names[int(model)] for model in side] for side in (a, b))
    result: Any = evalica.bradley_terry(left, right, winners)
    return np.log(np.array([result.scores[name] for name in names], np.float64))


def _lbfgs(names: list[str], a: Ints, b: Ints, score: Floats) -> Floats:
    from scipy.optimize import minimize  # pyright: ignore[reportUnknownVariableType]

    rows, times = np.unique(np.stack([a, b, 2 * score.astype(np.float64)], axis=1), axis=0, return_counts=True)
    left, right, points = rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2] / 2
    weights = times.astype(np.float64)

    def loss(theta: Floats) -> tuple[float, Floats]:
        gap = theta[left] - theta[right]
        value = weights @ (np.logaddexp(0, gap) - points * gap)
        slope = weights * (1 / (1 + np.exp(-gap)) - points)
        size = len(names)
        return float(value), scatter(left, slope, size) - scatter(right, slope, size)

    search = cast("Any", minimize)
    found = search(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "maxiter": 100})
    return np.asarray(found.x, np.float64)
