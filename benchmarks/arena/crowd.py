"""A simulated crowd: voters with opinions, some of them adversaries, on models of known strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from webui.leaderboard.ballots import Ballots, Group
from webui.leaderboard.cells import Floats, Ints

MODELS: Final = 20
VOTERS: Final = 1000
ADVERSARIES: Final = 0.05
TIES: Final = 0.2


@dataclass(frozen=True, slots=True)
class World:
    """Strengths θ [M], in log odds."""

    theta: Floats

    @property
    def names(self) -> list[str]:
        """The models' names, in the order of θ."""
        return [f"model-{index:02d}" for index in range(len(self.theta))]

    def votes(self, rng: np.random.Generator, a: Ints, b: Ints) -> Floats:
        """What honest people say of these pairs [N]: the score of a."""
        wins = rng.random(len(a)) < 1 / (1 + np.exp(self.theta[b] - self.theta[a]))
        return np.where(rng.random(len(a)) < TIES, 0.5, wins.astype(np.float64))


def world(rng: np.random.Generator, models: int = MODELS) -> World:
    """Strengths as boards have them: about 400 points from best to worst."""
    theta = np.sort(rng.normal(0, 0.6, models))[::-1]
    return World(theta - theta.mean())


def pairs(rng: np.random.Generator, models: int, n: int) -> tuple[Ints, Ints]:
    """Random pairs [N], each as likely as any."""
    a = rng.integers(0, models, n)
    return a, (a + rng.integers(1, models, n)) % models


def crowd(rng: np.random.Generator, kind: str, votes: int) -> tuple[Ballots, npt.NDArray[np.bool_]]:
    """All voters' ballots, `votes` each, and which voters [V] are adversaries of that kind.

    `against` votes the other way round, `random` without looking, `fan` always for one middling model, else honestly.
    """
    there = world(rng)
    adversary = rng.permutation(VOTERS) < int(ADVERSARIES * VOTERS)
    voter = np.repeat(np.arange(VOTERS), votes)
    a, b = pairs(rng, MODELS, len(voter))
    score = there.votes(rng, a, b)
    bad = adversary[voter]
    if kind == "against":
        score[bad] = 1 - score[bad]
    elif kind == "random":
        score[bad] = rng.choice([0, 0.5, 1], int(bad.sum()), p=[(1 - TIES) / 2, TIES, (1 - TIES) / 2])
    elif kind == "fan":
        favourite = MODELS // 2
        score[bad & (a == favourite)], score[bad & (b == favourite)] = 1, 0
    return _ballots(there.names, voter, a, b, score), adversary


def _ballots(names: list[str], voter: Ints, a: Ints, b: Ints, score: Floats) -> Ballots:
    codes, group = np.unique((a * len(names) + b) * 3 + (2 * score).astype(np.int64), return_inverse=True)
    groups = tuple(
        Group(
            names[code // 3 // len(names)], names[code // 3 % len(names)], ("b", "tie", "a")[code % 3], "", "", "", True
        )
        for code in codes.tolist()
    )
    n = len(voter)
    style = np.zeros((n, 4, 2), np.int32)
    return Ballots(groups, group, np.zeros(n), style, voter, tuple(f"voter-{index:04d}" for index in range(VOTERS)))
