"""Style control: Bradley–Terry with covariates, logit P(A wins) = θa − θb + x·β, fitted to single votes.

x are differences of style between the two answers (style.py), so β takes up what length and Markdown win by
themselves, and θ is the strength at equal style. Votes are too different here to be counted into cells, but the
curvature still falls into blocks that are sums over pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from webui.leaderboard.bradley_terry import MAX_STEPS, TOLERANCE, NotIdentified, newton_step, sigmoid
from webui.leaderboard.cells import Floats, Ints, scatter
from webui.leaderboard.threads import one_thread

# Below this part of its own size, what is left of a covariate's information once the models have explained it is
# rounding, not evidence.
_INDEPENDENT: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ContextFit:
    """θ [M] with mean zero, β [F] per unit of each covariate, and the covariance of both together [M + F, M + F]."""

    theta: Floats
    beta: Floats
    covariance: Floats
    steps: int

    @property
    def errors(self) -> Floats:
        """Standard errors of θ and then β [M + F]."""
        return np.sqrt(np.clip(np.diag(self.covariance), 0, None))


@dataclass(frozen=True, slots=True)
class _Rows:
    """N votes: `pair` = a * models + b [N], the score of A [N], the covariates [F, N]."""

    models: int
    pair: Ints
    a: Ints
    b: Ints
    score: Floats
    covariates: Floats


@one_thread
def fit_in_context(models: int, a: Ints, b: Ints, score: Floats, covariates: Floats) -> ContextFit:
    """The maximum of the likelihood with sandwich covariance; `covariates` is [N, F], A minus B.

    The models must be connected (graph.py). Raises NotIdentified when the covariates cannot be told from each other
    or from the models, or when they predict the votes perfectly.
    """
    rows = _Rows(models, a * models + b, a, b, score, np.ascontiguousarray(covariates.T))
    size = models + len(rows.covariates)
    estimate = np.zeros(size)
    logit = np.zeros(len(score))
    value = _log_likelihood(rows, logit)
    for step in range(1, MAX_STEPS + 1):
        chance = sigmoid(logit)
        matrix = _blocks(rows, chance * (1 - chance))
        if step == 1:
            _require_independent(matrix, models)
        move = newton_step(_regular(matrix, models), _gradient(rows, score - chance))
        shift, length = _logit(rows, move), 1.0
        while (reached := _log_likelihood(rows, logit + length * shift)) < value - 1e-12 * abs(value) and length > 1e-6:
            length /= 2
        estimate, logit, value = estimate + length * move, logit + length * shift, reached
        if np.abs(move).max(initial=0) < TOLERANCE:
            return _result(rows, estimate, logit, step)
    raise NotIdentified("style predicts the votes so well that its effect has no limit")


def _result(rows: _Rows, estimate: Floats, logit: Floats, steps: int) -> ContextFit:
    chance = sigmoid(logit)
    bread = np.linalg.inv(_regular(_blocks(rows, chance * (1 - chance)), rows.models))
    covariance = bread @ _blocks(rows, (rows.score - chance) ** 2) @ bread
    theta = estimate[: rows.models]
    return ContextFit(theta - theta.mean(), estimate[rows.models :], covariance, steps)


def _logit(rows: _Rows, vector: Floats) -> Floats:
    theta, beta = vector[: rows.models], vector[rows.models :]
    return theta[rows.a] - theta[rows.b] + beta @ rows.covariates


def _gradient(rows: _Rows, residual: Floats) -> Floats:
    return np.concatenate([_per_model(rows, residual), rows.covariates @ residual])


def _blocks(rows: _Rows, weights: Floats) -> Floats:
    """Σ w z zᵀ [M + F, M + F], z = (e_a − e_b, x)."""
    models, size = rows.models, rows.models + len(rows.covariates)
    matrix = np.empty((size, size))
    pairs = scatter(rows.pair, weights, models * models).reshape(models, models)
    off = pairs + pairs.T
    matrix[:models, :models] = np.diag(off.sum(axis=1)) - off
    weighted = rows.covariates * weights
    cross = np.array([_per_model(rows, row) for row in weighted]).reshape(len(weighted), models)
    matrix[models:, :models] = cross
    matrix[:models, models:] = cross.T
    matrix[models:, models:] = weighted @ rows.covariates.T
    return matrix


def _per_model(rows: _Rows, values: Floats) -> Floats:
    pairs = scatter(rows.pair, values, rows.models * rows.models).reshape(rows.models, rows.models)
    return pairs.sum(axis=1) - pairs.sum(axis=0)


def _regular(matrix: Floats, models: int) -> Floats:
    """With the free mean of θ fixed, as in bradley_terry.py."""
    regular = matrix.copy()
    regular[:models, :models] += np.trace(matrix[:models, :models]) / models**2
    return regular


def _require_independent(matrix: Floats, models: int) -> None:
    """What the models leave of the covariates' information (the Schur complement) must have full rank."""
    regular = _regular(matrix, models)
    own = regular[models:, models:]
    if not own.size:
        return
    left = own - regular[models:, :models] @ np.linalg.solve(regular[:models, :models], regular[:models, models:])
    scale = np.sqrt(np.diag(own))
    if (scale == 0).any() or np.linalg.eigvalsh(left / np.outer(scale, scale))[0] < _INDEPENDENT:
        raise NotIdentified("the style of the answers cannot be told from the models that gave them")


def _log_likelihood(rows: _Rows, logit: Floats) -> float:
    # log σ(x) = −log(1 + e^−x), and a score of s on A is worth s·x − log(1 + e^x).
    return float(rows.score @ logit - np.logaddexp(0, logit).sum())
