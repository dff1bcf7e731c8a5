"""How many votes narrow intervals cost, with pairs drawn by rule and evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.arena.crowd import MODELS, World, world
from webui.leaderboard.board import POINTS
from webui.leaderboard.bradley_terry import NotIdentified, fit
from webui.leaderboard.cells import Cells, Floats, count
from webui.sampling import PairSampler, SamplingRules

STEP: Final = 250
VOTES: Final = 12_000
NEWCOMERS: Final = 5
ARRIVAL: Final = 6_000
_NORMAL: Final = 1.96


@dataclass(frozen=True, slots=True)
class Curve:
    """After so many votes [P]: half the widest 95 % interval of a model there is, in points, averaged over runs [P]."""

    votes: Sequence[int]
    widest: Floats


def curve(seeds: Sequence[int], *, by_rule: bool, newcomers: int = 0, votes: int = VOTES) -> Curve:
    """One curve over worlds of these seeds; `newcomers` of the models arrive after ARRIVAL votes."""
    runs = [_run(seed, by_rule, newcomers, votes) for seed in seeds]
    return Curve(list(range(STEP, votes + 1, STEP)), np.array(runs).mean(axis=0))


def votes_for(found: Curve, width: float, *, after: int = 0) -> float:
    """The votes behind `after` until the widest interval is so narrow for good; NaN if it never is."""
    wide = [votes for votes, widest in zip(found.votes, found.widest, strict=True) if not widest <= width]
    last = max(wide, default=0)
    return float("nan") if last == found.votes[-1] else float(last + STEP - after)


def _run(seed: int, by_rule: bool, newcomers: int, votes: int) -> list[float]:
    rng = np.random.default_rng(seed)
    there = world(rng)
    # Any of them may be new, the best as well as the worst.
    late = set(rng.choice(there.names, newcomers, replace=False).tolist())
    sampler = PairSampler(SamplingRules(floor=0.1 if by_rule else 1.0), seed=seed)
    index = {name: position for position, name in enumerate(there.names)}
    a, b, score = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    found: list[float] = []
    for done in range(0, votes, STEP):
        models = [name for name in there.names if done >= ARRIVAL or name not in late]
        drawn = _draw(sampler, models, STEP)
        left, right = (np.array([index[pair[side]] for pair in drawn]) for side in (0, 1))
        a, b = np.append(a, left), np.append(b, right)
        score = np.append(score, there.votes(rng, left, right))
        cells = count(there.names, a, b, score)
        sampler.learn(cells)
        found.append(_widest(cells, there, models))
    return found


def _draw(sampler: PairSampler, models: Sequence[str], n: int) -> list[tuple[str, str]]:
    """As the arena draws: each battle is known to the next draw, its vote only at the next count."""
    drawn: list[tuple[str, str]] = []
    for _ in range(n):
        pair = sampler.draw(models)
        sampler.add(pair.a, pair.b)
        drawn.append((pair.a, pair.b))
    return drawn


def _widest(cells: Cells, there: World, models: Sequence[str]) -> float:
    kept = cells.only(np.isin(there.names, models))
    try:
        return float(_NORMAL * POINTS * fit(kept).errors.max())
    except NotIdentified:
        return float("inf")


__all__ = ["ARRIVAL", "MODELS", "NEWCOMERS", "STEP", "VOTES", "Curve", "curve", "votes_for"]
