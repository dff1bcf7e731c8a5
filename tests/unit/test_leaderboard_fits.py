"""The rating engine beside other people's, and on synthetic votes whose truth is known."""

from __future__ import annotations

from typing import Any

import choix  # pyright: ignore[reportMissingTypeStubs]
import evalica
import numpy as np
import pytest
import statsmodels.api as sm  # pyright: ignore[reportMissingTypeStubs]

from webui.leaderboard.bootstrap import bootstrap
from webui.leaderboard.bradley_terry import NotIdentified, fit, sigmoid
from webui.leaderboard.cells import Cells, Floats, Ints, count, from_counts
from webui.leaderboard.context import fit_in_context
from webui.leaderboard.elo import elo
from webui.leaderboard.graph import Status, statuses

NORMAL_95 = 1.959963984540054


class Votes:
    """Votes of a known world: strengths θ, a part of ties, and style that helps."""

    def __init__(self, rng: np.random.Generator, theta: Floats, n: int, ties: float = 0.0, beta: Floats | None = None):
        models = len(theta)
        self.a: Ints = rng.integers(0, models, n)
        self.b: Ints = (self.a + rng.integers(1, models, n)) % models
        self.style = rng.normal(size=(n, 0 if beta is None else len(beta)))
        logit = theta[self.a] - theta[self.b] + (self.style @ beta if beta is not None else 0)
        self.score: Floats = (rng.random(n) < sigmoid(logit)).astype(np.float64)
        self.score[rng.random(n) < ties] = 0.5
        self.models = [f"m{index}" for index in range(models)]

    def cells(self) -> Cells:
        return count(self.models, self.a, self.b, self.score)


@pytest.fixture(scope="module")
def votes() -> Votes:
    rng = np.random.default_rng(1)
    return Votes(rng, rng.normal(0, 0.7, 12), 4000, ties=0.2, beta=np.array([0.5, -0.2]))


def test_counts_do_not_depend_on_the_side() -> None:
    a, b, score = np.array([0, 1, 1, 2, 0]), np.array([1, 0, 2, 1, 0]), np.array([1, 0, 0.5, 1, 1])
    cells = count(["x", "y", "z"], a, b, score)
    assert (cells.first.tolist(), cells.second.tolist()) == ([0, 1], [1, 2])
    assert (cells.wins.tolist(), cells.losses.tolist(), cells.ties.tolist()) == ([2, 0], [0, 1], [0, 1])
    assert cells.per_model().tolist() == [2, 4, 2]
    assert cells.only(np.array([False, True, True])).total == 2


@pytest.mark.parametrize(
    ("score", "times", "message"),
    [([0.7], [1], "0, 0.5 or 1"), ([1], [-1], "not negative"), ([1], [np.nan], "finite"), ([1, 0], [1], "one length")],
)
def test_counts_refuse_what_is_no_vote(score: list[float], times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count(["x", "y"], np.array([0]), np.array([1]), score, times)


def test_newton_equals_choix(votes: Votes) -> None:
    cells = votes.cells()
    size = len(cells.models)
    won = np.zeros((size, size))
    won[cells.first, cells.second] = cells.scores
    won[cells.second, cells.first] = cells.battles - cells.scores
    theirs = choix.ilsr_pairwise_dense(won, max_iter=10_000, tol=1e-13)
    assert fit(cells).theta == pytest.approx(theirs - theirs.mean(), abs=1e-6)


def _for_evalica(votes: Votes) -> tuple[list[str], list[str], list[evalica.Winner]]:
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    names = votes.models
    return (
        [names[int(model)] for model in votes.a],
        [names[int(model)] for model in votes.b],
        [winner[float(score)] for score in votes.score],
    )


def _sorted_by(models: list[str], scores: Any) -> Floats:
    return np.array([scores[name] for name in models], np.float64)


def test_newton_equals_evalica(votes: Votes) -> None:
    result = evalica.bradley_terry(*_for_evalica(votes), tolerance=1e-14, limit=100_000)
    theirs = np.log(_sorted_by(votes.models, result.scores))
    assert fit(votes.cells()).theta == pytest.approx(theirs - theirs.mean(), abs=1e-6)


def _by_statsmodels(votes: Votes, covariates: Floats) -> tuple[Floats, Floats]:
    """Estimates and robust (HC0) covariance, the models' mean being zero: a GLM on single votes."""
    models, n = len(votes.models), len(votes.score)
    design = np.zeros((n, models))
    design[np.arange(n), votes.a] += 1
    design[np.arange(n), votes.b] -= 1
    columns = np.hstack([design[:, 1:], covariates])
    result: Any = sm.GLM(votes.score, columns, family=sm.families.Binomial()).fit(cov_type="HC0", tol=1e-14)
    size = models + covariates.shape[1]
    centred = np.eye(size)
    centred[:models, :models] -= 1 / models
    spread = centred[:, 1:]
    return spread @ result.params, spread @ result.cov_params() @ spread.T


def test_newton_and_its_sandwich_equal_statsmodels(votes: Votes) -> None:
    theta, covariance = _by_statsmodels(votes, np.zeros((len(votes.score), 0)))
    ours = fit(votes.cells())
    assert ours.theta == pytest.approx(theta, abs=1e-6)
    assert ours.covariance == pytest.approx(covariance, abs=1e-6)


def test_style_control_equals_statsmodels(votes: Votes) -> None:
    estimate, covariance = _by_statsmodels(votes, votes.style)
    ours = fit_in_context(len(votes.models), votes.a, votes.b, votes.score, votes.style)
    assert np.concatenate([ours.theta, ours.beta]) == pytest.approx(estimate, abs=1e-6)
    assert ours.covariance == pytest.approx(covariance, abs=1e-6)


def test_style_control_without_styles_is_the_plain_fit(votes: Votes) -> None:
    ours = fit_in_context(len(votes.models), votes.a, votes.b, votes.score, np.zeros((len(votes.score), 0)))
    plain = fit(votes.cells())
    assert ours.theta == pytest.approx(plain.theta, abs=1e-9)
    assert ours.covariance == pytest.approx(plain.covariance, abs=1e-9)


def test_elo_equals_evalica(votes: Votes) -> None:
    theirs = _sorted_by(votes.models, evalica.elo(*_for_evalica(votes)).scores)
    ours = elo(len(votes.models), votes.a, votes.b, votes.score, points=7)
    assert ours.ratings[-1] == pytest.approx(theirs, abs=1e-8)
    assert ours.after[-1] == len(votes.score)


def test_a_model_has_no_elo_before_its_first_battle() -> None:
    ratings = elo(3, np.array([0, 1]), np.array([1, 2]), np.array([1.0, 1.0]), points=2).ratings
    assert np.isnan(ratings).tolist() == [[False, False, True], [False, False, False]]


def test_bootstrap_agrees_with_the_sandwich() -> None:
    rng = np.random.default_rng(2)
    cells = Votes(rng, rng.normal(0, 0.7, 8), 20_000, ties=0.3).cells()
    plain = fit(cells)
    drawn = bootstrap(cells, plain.theta, rounds=400, seed=3)
    low, high = drawn.interval(0.95)
    widths = (high - low) / (2 * NORMAL_95 * plain.errors)
    assert drawn.dropped == 0
    assert widths.mean() == pytest.approx(1, abs=0.05)
    assert (low + high) / 2 == pytest.approx(plain.theta, abs=0.2 * plain.errors.max())
    again = bootstrap(cells, plain.theta, rounds=400, seed=3)
    assert np.array_equal(drawn.theta, again.theta)


def test_bootstrap_counts_the_resamples_that_cannot_be_fitted() -> None:
    cells = from_counts([("x", "y", 1, 30), ("x", "y", 0, 1)])
    drawn = bootstrap(cells, fit(cells).theta, rounds=200)
    assert 40 < drawn.dropped < 110  # a resample without the one loss has probability (30/31)³¹ ≈ 0.36


def test_intervals_cover_the_truth_at_the_nominal_rate_with_ties() -> None:
    """With half ties the model is not quite true; the truth is then what infinitely many votes would give."""
    rng = np.random.default_rng(4)
    theta, ties = rng.normal(0, 0.8, 8), 0.25
    covered: list[bool] = []
    truth = _limit(theta, ties)
    for _ in range(300):
        plain = fit(Votes(rng, theta, 1500, ties=ties).cells())
        covered += (np.abs(plain.theta - truth) <= NORMAL_95 * plain.errors).tolist()
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def _limit(theta: Floats, ties: float) -> Floats:
    """Where the fit of endlessly many votes ends, by expected counts."""
    first, second = np.triu_indices(len(theta), 1)
    chance = (1 - ties) * sigmoid(theta[first] - theta[second])
    expected = Cells(
        tuple(map(str, range(len(theta)))), first, second, chance, 1 - ties - chance, np.full_like(chance, ties)
    )
    return fit(expected).theta


def test_intervals_under_style_control_cover_the_truth_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(5)
    theta, beta = rng.normal(0, 0.8, 5), np.array([0.4, 0.0])
    truth = np.concatenate([theta - theta.mean(), beta])
    covered: list[bool] = []
    for _ in range(300):
        votes = Votes(rng, theta, 1200, beta=beta)
        styled = fit_in_context(5, votes.a, votes.b, votes.score, votes.style)
        found = np.concatenate([styled.theta, styled.beta])
        covered += (np.abs(found - truth) <= NORMAL_95 * styled.errors).tolist()
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_style_control_takes_out_what_style_adds() -> None:
    """One model writes at length and is no better: it leads by votes, and not at equal style."""
    rng = np.random.default_rng(6)
    votes = Votes(rng, np.zeros(4), 40_000, beta=np.zeros(1))
    votes.style[:, 0] += 1.5 * ((votes.a == 0).astype(float) - (votes.b == 0))
    votes.score = (rng.random(40_000) < sigmoid(0.6 * votes.style[:, 0])).astype(np.float64)
    plain = fit(votes.cells())
    styled = fit_in_context(4, votes.a, votes.b, votes.score, votes.style)
    assert plain.theta[0] > 10 * plain.errors[0]
    assert abs(styled.theta[0]) < 3 * styled.errors[0]
    assert styled.beta[0] == pytest.approx(0.6, abs=4 * styled.errors[-1])


@pytest.mark.parametrize("style", ["the models'", "constant", "twice the same", "perfect"])
def test_style_that_cannot_be_told_from_something_else_is_refused(votes: Votes, style: str) -> None:
    fixed = ((votes.a == 0).astype(float) - (votes.b == 0))[:, None]
    covariates = {
        "the models'": fixed,
        "constant": np.zeros_like(fixed),
        "twice the same": np.hstack([votes.style[:, :1]] * 2),
        "perfect": (votes.score - 0.5)[:, None] * 2,
    }[style]
    decided = votes.score != 0.5
    with pytest.raises(NotIdentified):
        fit_in_context(12, votes.a[decided], votes.b[decided], votes.score[decided], covariates[decided])


def test_one_loss_in_a_million_is_a_rating() -> None:
    ours = fit(from_counts([("x", "y", 1, 999_999), ("x", "y", 0, 1)]))
    assert ours.theta[0] - ours.theta[1] == pytest.approx(np.log(999_999), rel=1e-9)


def test_all_ties_are_equal_strengths() -> None:
    ours = fit(from_counts([("x", "y", 0.5, 50), ("y", "z", 0.5, 50)]))
    assert ours.theta == pytest.approx(np.zeros(3), abs=1e-12)
    assert ours.errors == pytest.approx(np.zeros(3), abs=1e-12)


def test_models_without_a_finite_rating_are_told_apart() -> None:
    cells = from_counts(
        [
            *[("a", "b", 1, 9), ("b", "a", 1, 4), ("b", "c", 0.5, 2)],  # a, b and c reach each other
            *[("star", "a", 1, 5), ("nova", "star", 1, 3)],  # nobody got at these two
            ("c", "sink", 1, 4),
            *[("far", "off", 1, 30), ("off", "far", 1, 1)],  # an island, but the busier one
        ]
    )
    found = dict(zip(cells.models, statuses(cells), strict=True))
    assert found == {
        **dict.fromkeys(("far", "off"), Status.RANKED),
        **dict.fromkeys(("a", "b", "c", "star", "nova", "sink"), Status.UNCONNECTED),
    }
    # Without the island the others are what they are.
    main = cells.only(np.array([name not in ("far", "off") for name in cells.models]))
    assert dict(zip(main.models, statuses(main), strict=True)) == {
        **dict.fromkeys("abc", Status.RANKED),
        **dict.fromkeys(("star", "nova"), Status.UNDEFEATED),
        "sink": Status.WINLESS,
    }


def test_a_fit_of_models_that_never_met_is_refused() -> None:
    with pytest.raises(NotIdentified):
        fit(from_counts([("a", "b", 0.5, 9), ("c", "d", 0.5, 9)]))


def test_no_votes_are_no_ratings() -> None:
    assert statuses(from_counts([])) == []
