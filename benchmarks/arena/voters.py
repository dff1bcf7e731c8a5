"""How many adversaries the test of voters finds, and how many honest people it suspects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.arena.crowd import crowd
from webui.trust.voters import suspicions

KINDS: Final = ("against", "random", "fan")
VOTES: Final = (10, 20, 50, 100)
ALPHA: Final = 0.01


def rates(kind: str, votes: int, seeds: Sequence[int], *, smoothed: bool = True) -> tuple[float, float]:
    """The parts of adversaries found and of honest voters suspected at ALPHA."""
    found = honest = 0
    adversaries = people = 0
    for seed in seeds:
        ballots, bad = crowd(np.random.default_rng(seed), kind, votes)
        guilty = {ballots.voters[index] for index in np.flatnonzero(bad)}
        suspected = {s.voter for s in suspicions(ballots, seed=seed, smoothed=smoothed) if s.p <= ALPHA}
        found, adversaries = found + len(suspected & guilty), adversaries + len(guilty)
        honest, people = honest + len(suspected - guilty), people + len(ballots.voters) - len(guilty)
    return found / adversaries, honest / people
