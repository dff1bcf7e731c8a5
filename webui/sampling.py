"""Who battles whom: pairs whose next vote says most are drawn more often (arXiv 2403.04132, equation 9).

The weight of a pair is √(v/n) − √(v/(n+1)): by how much one more vote narrows its interval, n being the pair's votes
and v the variance of one. A part of the draws (the floor) is even over all pairs, so that each keeps a known, positive
probability: it is returned with the pair, stored with the vote, and undoes the unequal sampling in any estimate.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import sqrt
from typing import Final

from webui.leaderboard.cells import Cells
from webui.records import Pair

# What a pair without votes is taken to have had: one vote, of the variance of a coin.
_FIRST: Final = 1.0
_COIN: Final = 0.25


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """`floor`: the part of draws that is even. `boosts`: factors of models (new ones, say). `out`: models not drawn."""

    floor: float = 0.1
    boosts: Mapping[str, float] = field(default_factory=dict[str, float])
    out: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor must be above 0 and at most 1, not {self.floor}")
        for model, factor in self.boosts.items():
            if not factor > 0:
                raise ValueError(f"the boost of {model} must be positive, not {factor}; `out` leaves a model out")


class PairSampler:
    """Implements `webui.records.Sampler`; `learn` from votes at any time. Safe to use from several threads.

    With a seed the same calls draw the same pairs.
    """

    def __init__(self, rules: SamplingRules | None = None, *, seed: int | None = None) -> None:
        self._rules = rules or SamplingRules()
        self._random = random.Random(seed)
        self._seen: dict[tuple[str, str], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def learn(self, cells: Cells) -> None:
        """Take these counts, instead of those of before."""
        seen: dict[tuple[str, str], tuple[float, float]] = {}
        for index in range(len(cells.first)):
            pair = _key(cells.models[int(cells.first[index])], cells.models[int(cells.second[index])])
            battles, ties = float(cells.battles[index]), float(cells.ties[index])
            mean = (float(cells.wins[index]) + ties / 2) / battles
            square = (float(cells.wins[index]) + ties / 4) / battles
            # As if a coin had been thrown once besides: a pair of few and equal votes is not certain.
            variance = (battles * (square - mean**2) + _COIN) / (battles + 1)
            seen[pair] = (battles, variance)
        with self._lock:
            self._seen = seen

    def add(self, a: str, b: str) -> None:
        """One more battle of a pair has begun; its vote will come with the next `learn`."""
        with self._lock:
            battles, variance = self._seen.get(_key(a, b), (0.0, _COIN))
            self._seen[_key(a, b)] = (battles + 1, variance)

    def draw(self, models: Sequence[str]) -> Pair:
        """Two of these models, on sides that a coin decides. Raises ValueError when fewer than two may be drawn."""
        pairs, probabilities = self._table(models)
        with self._lock:
            index = self._random.choices(range(len(pairs)), probabilities)[0]
            a, b = pairs[index] if self._random.random() < 0.5 else pairs[index][::-1]
        return Pair(a, b, probabilities[index])

    def probabilities(self, models: Sequence[str]) -> dict[tuple[str, str], float]:
        """With which probability each pair (in the order of names) is drawn from these models."""
        return dict(zip(*self._table(models), strict=True))

    def _table(self, models: Sequence[str]) -> tuple[list[tuple[str, str]], list[float]]:
        drawn = sorted(set(models) - self._rules.out)
        if len(drawn) < 2:
            raise ValueError(f"a battle needs two models, and {len(drawn)} of {len(set(models))} may be drawn")
        pairs = list(combinations(drawn, 2))
        with self._lock:
            seen = [self._seen.get(pair, (0.0, _COIN)) for pair in pairs]
        boosts = [self._boost(pair) for pair in pairs]
        gains = [boost * _gain(*known) for boost, known in zip(boosts, seen, strict=True)]
        # The floor is even but for boosts: an operator's wish holds there, too.
        even, useful, floor = sum(boosts), sum(gains), self._rules.floor
        return pairs, [
            floor * boost / even + (1 - floor) * gain / useful for boost, gain in zip(boosts, gains, strict=True)
        ]

    def _boost(self, pair: Iterable[str]) -> float:
        factor = 1.0
        for model in pair:
            factor *= self._rules.boosts.get(model, 1.0)
        return factor


def _gain(battles: float, variance: float) -> float:
    battles = max(battles, _FIRST)
    return sqrt(variance / battles) - sqrt(variance / (battles + 1))


def _key(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
