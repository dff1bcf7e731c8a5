"""A board: models with scores, intervals and ranks, from votes that were counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final, Literal

import numpy as np

from webui.leaderboard.ballots import SCORES, STYLE, Ballots, Group, Tally, cells
from webui.leaderboard.bootstrap import bootstrap
from webui.leaderboard.bradley_terry import NotIdentified, fit
from webui.leaderboard.categories import CATEGORIES, OVERALL, Category, counts, in_category
from webui.leaderboard.cells import Bools, Cells, Floats
from webui.leaderboard.context import fit_in_context
from webui.leaderboard.graph import Status, statuses
from webui.leaderboard.sensitivity import Sensitivity, sensitivity

# Elo's scale: 400 points are odds of 10 to 1.
POINTS: Final = 400 / np.log(10)
START: Final = 1000.0


@dataclass(frozen=True, slots=True)
class BoardRules:
    """How a board is made. `anchor` is the name and score of a model that holds the scale; else the mean is 1000.

    Models with fewer than `minimum_votes` are rated with the others and not ranked.
    """

    anchor: tuple[str, float] | None = None
    level: float = 0.95
    intervals: Literal["sandwich", "bootstrap"] = "sandwich"
    rounds: int = 100
    seed: int = 0
    minimum_votes: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """One model. `rank` is 1 + the models whose interval lies wholly above; score and interval in points.

    They are None for a model that the votes leave without one, as `status` says. `won` is the part of points that it
    got, a tie being half, the mean over its opponents.
    """

    model: str
    status: Status
    votes: int
    rank: int | None = None
    score: float | None = None
    low: float | None = None
    high: float | None = None
    won: float | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """Standings, best first; the votes that counted; and how the numbers came about, for the page to say.

    `style` holds the effect of each kind of style, in points per standard deviation, with its standard error. `notes`
    are sentences about what could not be done.
    """

    category: str
    styled: bool
    standings: tuple[Standing, ...]
    cells: Cells
    votes: int
    rules: BoardRules
    style: Mapping[str, tuple[float, float]]
    sensitivity: Sensitivity | None
    notes: tuple[str, ...]

    @property
    def ranked(self) -> list[Standing]:
        """The standings with a rank."""
        return [standing for standing in self.standings if standing.rank is not None]


def rate(tally: Tally, category: str = OVERALL, rules: BoardRules | None = None, *, influence: bool = True) -> Board:
    """The board of a category; without `influence` it is not looked at what the first place hangs on."""
    rules = rules or BoardRules()
    everything = cells(in_category(tally, CATEGORIES[category]))
    status, core = _core(everything)
    if core.total == 0:
        return _board(category, rules, everything, status, core, None, (_unranked(everything),))
    plain = fit(core)
    notes: list[str] = []
    half = _quantile(rules) * plain.errors
    low, high = plain.theta - half, plain.theta + half
    if rules.intervals == "bootstrap":
        drawn = bootstrap(core, plain.theta, rounds=rules.rounds, seed=rules.seed)
        low, high = drawn.interval(rules.level)
        if drawn.dropped:
            notes.append(f"{drawn.dropped} of {rules.rounds} resamples left a model without a score and were dropped.")
    hangs_on = sensitivity(core, plain.theta) if influence else None
    scores = _Scores(plain.theta, low, high, sensitivity=hangs_on)
    return _board(category, rules, everything, status, core, scores, tuple(notes))


def rate_with_style(ballots: Ballots, category: str = OVERALL, rules: BoardRules | None = None) -> Board:
    """The board of a category at equal style; without style, and with a note, where that cannot be told."""
    rules = rules or BoardRules()
    chosen = CATEGORIES[category]
    rows = _rows(ballots, chosen)
    tally = _tally_of(ballots, rows)
    everything = cells(tally)
    status, core = _core(everything)
    try:
        scores = _styled(ballots, rows, core, rules)
    except NotIdentified as error:
        plain = rate(tally, category, rules)
        return _with_note(plain, f"Without style control: {error}.")
    return _board(category, rules, everything, status, core, scores, ())


@dataclass(frozen=True, slots=True)
class _Scores:
    """θ with its interval [M], and what came with it."""

    theta: Floats
    low: Floats
    high: Floats
    style: Mapping[str, tuple[float, float]] | None = None
    sensitivity: Sensitivity | None = None


def _core(everything: Cells) -> tuple[list[Status], Cells]:
    status = statuses(everything)
    return status, everything.only(np.array([each is Status.RANKED for each in status], bool))


def _unranked(everything: Cells) -> str:
    """Why no model has a rank."""
    if everything.total == 0:
        return "There are no votes yet."
    return "No model is ranked yet: it has to have won and lost against one that has, too."


def _quantile(rules: BoardRules) -> float:
    return NormalDist().inv_cdf((1 + rules.level) / 2)


def _rows(ballots: Ballots, category: Category) -> Bools:
    held = np.array([counts(group) and category.holds(group) for group in ballots.groups], bool)
    return held[ballots.group] if len(ballots.groups) else np.zeros(0, bool)


def _tally_of(ballots: Ballots, rows: Bools) -> dict[Group, int]:
    votes = np.bincount(ballots.group[rows], minlength=len(ballots.groups))
    return {group: int(number) for group, number in zip(ballots.groups, votes, strict=True) if number}


def _styled(ballots: Ballots, rows: Bools, core: Cells, rules: BoardRules) -> _Scores:
    if core.total == 0:
        raise NotIdentified("there are no votes yet")
    index = {model: position for position, model in enumerate(core.models)}
    sides = np.array([[index.get(g.model_a, -1), index.get(g.model_b, -1)] for g in ballots.groups], np.int64)
    points = np.array([SCORES[group.choice] for group in ballots.groups])
    rows = rows & (sides[ballots.group] >= 0).all(axis=1) & (sides[ballots.group, 0] != sides[ballots.group, 1])
    group = ballots.group[rows]
    covariates, kinds = _covariates(ballots.style[rows])
    a, b = sides[group, 0], sides[group, 1]
    styled = fit_in_context(len(core.models), a, b, points[group], covariates)
    half = _quantile(rules) * styled.errors[: len(core.models)]
    effects = zip(kinds, styled.beta * POINTS, styled.errors[len(core.models) :] * POINTS, strict=True)
    return _Scores(
        styled.theta,
        styled.theta - half,
        styled.theta + half,
        style={kind: (float(effect), float(error)) for kind, effect, error in effects},
    )


def _covariates(style: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> tuple[Floats, list[str]]:
    """(a − b) / (a + b) of each kind of style, in standard deviations [N, F]; kinds that never differ are left out."""
    counted = style.astype(np.float64)
    total = counted.sum(axis=2)
    share = np.divide(counted[:, :, 0] - counted[:, :, 1], total, out=np.zeros_like(total), where=total > 0)
    # Not centred: equal styles shall be zero, whatever the mean is.
    deviation = np.sqrt((share**2).mean(axis=0)) if len(share) else np.zeros(len(STYLE))
    kept = deviation > 0
    return share[:, kept] / deviation[kept], [name for name, keep in zip(STYLE, kept, strict=True) if keep]


def _board(
    category: str,
    rules: BoardRules,
    everything: Cells,
    status: Sequence[Status],
    core: Cells,
    scores: _Scores | None,
    notes: tuple[str, ...],
) -> Board:
    points, shift_note = _points(core, scores, rules)
    ranks = _ranks(core, points, rules)
    votes, won = everything.per_model(), _won(everything)
    standings: list[Standing] = []
    for position, model in enumerate(everything.models):
        rated = points.get(model)
        standings.append(
            Standing(
                model,
                status[position],
                int(votes[position]),
                ranks.get(model),
                *(rated or (None, None, None)),
                won=float(won[position]),
            )
        )
    order = list(Status)
    standings.sort(key=lambda s: (order.index(s.status), -(s.score or 0), s.model))
    return Board(
        category,
        scores is not None and scores.style is not None,
        tuple(standings),
        everything,
        int(everything.total),
        rules,
        (scores.style if scores else None) or {},
        scores.sensitivity if scores else None,
        notes + shift_note,
    )


def _points(
    core: Cells, scores: _Scores | None, rules: BoardRules
) -> tuple[dict[str, tuple[float, float, float]], tuple[str, ...]]:
    """Score and interval of each ranked model on Elo's scale; a note when the anchor is not among them."""
    if scores is None:
        return {}, ()
    shift, notes = START, ()
    if rules.anchor is not None:
        name, score = rules.anchor
        if name in core.models:
            shift = score - float(scores.theta[core.models.index(name)]) * POINTS
        else:
            notes = (f"The anchor {name} is not ranked here; the mean is {START:.0f} instead.",)
    table = np.stack([scores.theta, scores.low, scores.high], axis=1) * POINTS + shift
    return {model: (row[0], row[1], row[2]) for model, row in zip(core.models, table.tolist(), strict=True)}, notes


def _ranks(core: Cells, points: Mapping[str, tuple[float, float, float]], rules: BoardRules) -> dict[str, int]:
    enough = dict(zip(core.models, core.per_model() >= rules.minimum_votes, strict=True))
    shown = {model: row for model, row in points.items() if enough[model]}
    return {
        model: 1 + sum(other[1] > row[2] for name, other in shown.items() if name != model)
        for model, row in shown.items()
    }


def _won(everything: Cells) -> Floats:
    """The mean over opponents of the part of points won [M]; NaN without opponents."""
    size = len(everything.models)
    part = everything.scores / np.maximum(everything.battles, 1e-300)
    sums, opponents = np.zeros(size), np.zeros(size)
    for side, value in ((everything.first, part), (everything.second, 1 - part)):
        sums += np.bincount(side, weights=value, minlength=size)
        opponents += np.bincount(side, minlength=size)
    return np.divide(sums, opponents, out=np.full(size, np.nan), where=opponents > 0)


def _with_note(board: Board, note: str) -> Board:
    return replace(board, notes=(*board.notes, note))
