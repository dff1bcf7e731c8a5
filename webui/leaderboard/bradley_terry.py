"""The Bradley–Terry model: P(i beats j) = 1 / (1 + exp(θj − θi)), by Newton's method on counts, a tie as half a win.

Intervals come from the sandwich H⁻¹BH⁻¹: H is the curvature of the log-likelihood, B the sum of the squared score
contributions of the votes themselves. The inverse of H alone would be too wide, since half a point varies less than
a coin, and it would trust the model to be true. θ has mean zero over the models, and so have the intervals: they say
where a model stands among the others, not against one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from webui.leaderboard.cells import Cells, Floats, scatter
from webui.leaderboard.threads import one_thread

# Newton converges quadratically: a step this small leaves an error of about its square.
TOLERANCE: Final = 1e-9
MAX_STEPS: Final = 100


class NotIdentified(ValueError):
    """The votes do not determine the ratings: they would run to infinity, or move freely."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Strengths θ [M] in units of log odds, mean zero; their covariance [M, M]; Newton steps taken."""

    theta: Floats
    covariance: Floats
    steps: int

    @property
    def errors(self) -> Floats:
        """Standard errors [M]."""
        return np.sqrt(np.clip(np.diag(self.covariance), 0, None))


@one_thread
def fit(cells: Cells) -> Fit:
    """The maximum of the likelihood with sandwich covariance.

    Raises NotIdentified unless everybody is connected with everybody by wins or ties in both directions (graph.py).
    """
    theta, steps = maximise(cells, np.zeros(len(cells.models)))
    return Fit(theta, _sandwich(cells, theta), steps)


def maximise(cells: Cells, start: Floats) -> tuple[Floats, int]:
    """θ [M] at the maximum, and the Newton steps that it took from `start`. Raises NotIdentified."""
    theta = start - start.mean()
    value = _log_likelihood(cells, theta)
    for step in range(1, MAX_STEPS + 1):
        chance = _chance(cells, theta)
        residual = cells.scores - cells.battles * chance
        move = newton_step(_curvature(cells, chance), _gradient(cells, residual))
        size = 1.0
        # The likelihood is concave: a short enough step in this direction is uphill, but for rounding.
        while (reached := _log_likelihood(cells, theta + size * move)) < value - 1e-12 * abs(value) and size > 1e-6:
            size /= 2
        theta, value = theta + size * move, reached
        if np.abs(move).max(initial=0) < TOLERANCE:
            return theta - theta.mean(), step
    raise NotIdentified(f"no maximum of the likelihood was found in {MAX_STEPS} steps")


def curvature(cells: Cells, theta: Floats) -> Floats:
    """The negative second derivative of the log-likelihood at θ [M, M], made regular along the constant vector."""
    return _curvature(cells, _chance(cells, theta))


def laplacian(cells: Cells, weights: Floats) -> Floats:
    """Σ w (e_i − e_j)(e_i − e_j)ᵀ over the pairs [M, M]."""
    off = cells.matrix(weights)
    return np.diag(off.sum(axis=1)) - off


def newton_step(matrix: Floats, gradient: Floats) -> Floats:
    """The step to the maximum of the quadratic that fits here. Raises NotIdentified where there is none."""
    try:
        step = np.asarray(np.linalg.solve(matrix, gradient), np.float64)
    except np.linalg.LinAlgError as error:
        raise NotIdentified("the votes leave some ratings without a limit") from error
    if not np.isfinite(step).all():
        raise NotIdentified("the votes leave some ratings without a limit")
    return step


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + exp(−x)), without overflow."""
    return (1 + np.tanh(logit / 2)) / 2


def _sandwich(cells: Cells, theta: Floats) -> Floats:
    chance = _chance(cells, theta)
    squares = cells.wins * (1 - chance) ** 2 + cells.losses * chance**2 + cells.ties * (0.5 - chance) ** 2
    bread = np.linalg.inv(_curvature(cells, chance))
    return bread @ laplacian(cells, squares) @ bread


def _chance(cells: Cells, theta: Floats) -> Floats:
    return sigmoid(theta[cells.first] - theta[cells.second])


def _gradient(cells: Cells, residual: Floats) -> Floats:
    size = len(cells.models)
    return scatter(cells.first, residual, size) - scatter(cells.second, residual, size)


def _curvature(cells: Cells, chance: Floats) -> Floats:
    information = laplacian(cells, cells.battles * chance * (1 - chance))
    # Adding a multiple of the projection on constants fixes the free mean and changes nothing else.
    return information + np.full_like(information, max(np.trace(information), 1e-300) / information.shape[0] ** 2)


def _log_likelihood(cells: Cells, theta: Floats) -> float:
    gap = theta[cells.first] - theta[cells.second]
    points = cells.scores
    return -float(points @ np.logaddexp(0, -gap) + (cells.battles - points) @ np.logaddexp(0, gap))
