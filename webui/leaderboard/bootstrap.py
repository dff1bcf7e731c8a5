"""Intervals by resampling: votes are drawn again with replacement, which on counts is one multinomial draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from webui.leaderboard.bradley_terry import NotIdentified, maximise
from webui.leaderboard.cells import Cells, Floats
from webui.leaderboard.graph import connected
from webui.leaderboard.threads import one_thread


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """θ of each resample [R, M]; `dropped` counts the resamples in which some model had no finite strength.

    When more than a few are dropped, the intervals of the sandwich are no better: there are too few votes.
    """

    theta: Floats
    dropped: int

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """The quantiles of θ [M] that leave (1 − level) / 2 on either side."""
        low, high = np.quantile(self.theta, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high


@one_thread
def bootstrap(cells: Cells, theta: Floats, *, rounds: int = 100, seed: int = 0) -> Bootstrap:
    """Fit `rounds` resamples of the votes, each from the fit of all votes on. Counts must be whole numbers.

    Raises NotIdentified when no resample could be fitted.
    """
    counts = np.concatenate([cells.wins, cells.losses, cells.ties])
    whole = np.rint(counts).astype(np.int64)
    if not np.array_equal(whole, counts):
        raise ValueError("votes with weights cannot be resampled as counts; use the sandwich")
    draws = np.random.default_rng(seed).multinomial(int(whole.sum()), whole / whole.sum(), size=rounds)
    fitted: list[Floats] = []
    for draw in draws.astype(np.float64):
        sample = cells.with_counts(*np.split(draw, 3))
        if connected(sample):
            fitted.append(maximise(sample, theta)[0])
    if not fitted:
        raise NotIdentified(f"none of {rounds} resamples connects all models: there are too few votes")
    return Bootstrap(np.array(fitted), rounds - len(fitted))
