"""Pairs are drawn by what their next vote says, each with the probability that is told."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import pytest

from webui.leaderboard.cells import from_counts
from webui.sampling import PairSampler, SamplingRules


def test_equation_nine() -> None:
    sampler = PairSampler(SamplingRules(floor=0.25))
    sampler.learn(from_counts([("a", "b", 1, 60), ("a", "b", 0, 40), ("a", "c", 1, 8), ("a", "c", 0.5, 2)]))

    def gain(n: float, variance: float) -> float:
        return sqrt(variance / n) - sqrt(variance / (n + 1))

    gains = {
        ("a", "b"): gain(100, (100 * 0.24 + 0.25) / 101),
        ("a", "c"): gain(10, (10 * 0.04 + 0.25) / 11),
        ("b", "c"): gain(1, 0.25),  # never met
    }
    expected = {pair: 0.25 / 3 + 0.75 * value / sum(gains.values()) for pair, value in gains.items()}
    assert sampler.probabilities(["c", "b", "a"]) == pytest.approx(expected)


def test_what_is_drawn_has_the_probability_that_is_told() -> None:
    sampler = PairSampler(SamplingRules(boosts={"new": 3}), seed=1)
    sampler.learn(from_counts([("x", "y", 1, 500), ("y", "x", 1, 500), ("x", "new", 0.5, 20)]))
    models = ["x", "y", "new", "z"]
    told = sampler.probabilities(models)
    drawn = [sampler.draw(models) for _ in range(20_000)]
    counts = Counter((min(pair.a, pair.b), max(pair.a, pair.b)) for pair in drawn)
    assert sum(told.values()) == pytest.approx(1)
    for pair, probability in told.items():
        assert counts[pair] / 20_000 == pytest.approx(probability, abs=0.015)
    assert {pair.probability for pair in drawn} == set(told.values())
    assert sum(pair.a < pair.b for pair in drawn) / 20_000 == pytest.approx(0.5, abs=0.015)


def test_a_seed_draws_the_same_again() -> None:
    one, other, third = (PairSampler(seed=seed) for seed in (7, 7, 8))
    draws = [[sampler.draw("abcdef") for _ in range(20)] for sampler in (one, other, third)]
    assert draws[0] == draws[1] != draws[2]


def test_battles_that_run_count_before_their_votes() -> None:
    sampler = PairSampler()
    before = sampler.probabilities("abc")["a", "b"]
    for _ in range(5):
        sampler.add("b", "a")
    assert sampler.probabilities("abc")["a", "b"] < before / 2


def test_models_that_are_out_are_not_drawn() -> None:
    sampler = PairSampler(SamplingRules(out=frozenset("ab")))
    assert set(sampler.probabilities("abcd")) == {("c", "d")}
    assert sampler.draw("acd").probability == pytest.approx(1)
    for models in ("abc", "c", "cc", ""):
        with pytest.raises(ValueError, match="needs two models"):
            sampler.draw(models)


@pytest.mark.parametrize("rules", [{"floor": 0.0}, {"floor": 1.1}, {"boosts": {"a": 0.0}}])
def test_rules_that_cannot_be_kept(rules: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SamplingRules(**rules)  # pyright: ignore[reportArgumentType]
