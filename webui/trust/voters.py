"""Voters whose votes are no opinions (arXiv 2403.04132, section 5.1): each vote is held against all others on its pair.

The paper's p = (1 + others' votes on the pair that are at least as high) / (others' votes + 1) is no smaller than
uniform for a voter who votes as all do, so −2 Σ log p over j votes is no larger than χ² with 2j degrees of freedom
(Fisher). With three possible votes that p is far from uniform, and the test blind to most. So the votes that are just
as high count in a random part (a smoothed p-value), which makes p uniform for honest voters, and the test as sharp as
it claims to be. It looks after five numbers of votes that are drawn beforehand, for votes too high and for votes too
low.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Final

import numpy as np

from webui.leaderboard.ballots import SCORES, Ballots
from webui.leaderboard.cells import Floats, Ints

MINIMUM: Final = 5
_LOOKS: Final = 5
_FURTHEST: Final = 100


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A voter, how many votes there are, and how likely an honest voter would look as odd or odder (corrected)."""

    voter: str
    votes: int
    p: float


@dataclass(frozen=True, slots=True)
class _Others:
    """For each vote [N] how many of others' votes on its pair are above it, equal to it, below it."""

    above: Ints
    equal: Ints
    below: Ints

    def p_values(self, rows: Ints, part: Floats) -> tuple[Floats, Floats]:
        """Whether these votes are too high, and too low; `part` of the equal ones counts."""
        above, equal, below = self.above[rows], self.equal[rows], self.below[rows]
        total = above + equal + below + 1
        return (above + part * (equal + 1)) / total, (below + part * (equal + 1)) / total


def suspicions(ballots: Ballots, *, seed: int = 0, smoothed: bool = True) -> list[Suspicion]:
    """All voters with at least MINIMUM votes, the most suspicious first. Not `smoothed` is the paper's own p-value."""
    others = _others(ballots.voter, *_levels(ballots))
    order = np.argsort(ballots.voter, kind="stable")
    bounds = np.searchsorted(ballots.voter[order], np.arange(len(ballots.voters) + 1))
    found: list[Suspicion] = []
    for code, voter in enumerate(ballots.voters):
        rows = order[bounds[code] : bounds[code + 1]]
        if len(rows) >= MINIMUM:
            # The voter's own seed: who else there is does not change what is drawn.
            rng = np.random.default_rng([seed, *voter.encode()])
            looks = _looks(len(rows), rng)
            part = 1 - rng.random(len(rows)) if smoothed else np.ones(len(rows))
            p = min(_fisher(values, looks) for values in others.p_values(rows, part))
            found.append(Suspicion(voter, len(rows), min(1.0, 2 * _LOOKS * p)))
    return sorted(found, key=lambda suspicion: (suspicion.p, suspicion.voter))


def _levels(ballots: Ballots) -> tuple[Ints, Ints]:
    """The pair of each vote [N], whichever model is on which side, and the score [N] of its first: 0, 1 or 2 halves."""
    pairs: dict[tuple[str, str], int] = {}
    codes: list[tuple[int, int]] = []
    for group in ballots.groups:
        swapped = group.model_a > group.model_b
        names = (group.model_b, group.model_a) if swapped else (group.model_a, group.model_b)
        score = round(2 * SCORES[group.choice])
        codes.append((pairs.setdefault(names, len(pairs)), 2 - score if swapped else score))
    table = np.array(codes, np.int64).reshape(-1, 2)[ballots.group]
    return table[:, 0], table[:, 1]


def _others(voter: Ints, pair: Ints, level: Ints) -> _Others:
    pairs = int(pair.max(initial=-1)) + 1
    everybody = np.bincount(pair * 3 + level, minlength=pairs * 3).reshape(pairs, 3)
    _, mine = np.unique(voter * pairs + pair, return_inverse=True)
    own = np.bincount(mine * 3 + level, minlength=(int(mine.max(initial=-1)) + 1) * 3).reshape(-1, 3)
    others = everybody[pair] - own[mine]
    levels = np.arange(3)
    return _Others(
        above=(others * (levels > level[:, None])).sum(axis=1),
        equal=(others * (levels == level[:, None])).sum(axis=1),
        below=(others * (levels < level[:, None])).sum(axis=1),
    )


def _looks(votes: int, rng: np.random.Generator) -> Ints:
    # One look is at all there is (up to the furthest), where the test is strongest.
    furthest = min(votes, _FURTHEST)
    return np.append(rng.integers(1, furthest + 1, _LOOKS - 1), furthest)


def _fisher(p: Floats, looks: Ints) -> float:
    """The smallest tail probability of χ² at these numbers of votes."""
    halves = -np.cumsum(np.log(p))
    return min(_chi_square_tail(float(halves[look - 1]), look) for look in looks.tolist())


def _chi_square_tail(half: float, count: int) -> float:
    """P(χ² with 2·count degrees of freedom ≥ 2·half): a Poisson sum, since the degrees are even."""
    if half <= 0:
        return 1.0
    terms = [term * log(half) - half - lgamma(term + 1) for term in range(count)]
    top = max(terms)
    return min(1.0, exp(top) * sum(exp(term - top) for term in terms))
