"""The sampler against a plain reference: exact filters, right distribution, rows that do not see each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mesh.engine.base import Sampling
from mesh.engine.filters import draw, padded_width
from mesh.engine.sampler import Sampler
from mesh.engine.uniform import stream, uniform
from mesh.errors import MeshError

VOCAB = 1500
EOS = 7


def make_logits(rows: int, seed: int, vocab: int = VOCAB, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator) * spread


def sample_one(sampling: Sampling, logits: torch.Tensor, **history: Any) -> int:
    sampler = Sampler(logits.shape[-1], "cpu", (EOS,))
    row = sampler.add(sampling, 0, history.get("prompt", ()), history.get("generated", ()))
    return sampler.sample([row], logits.clone().view(1, -1)).token_ids[0]


def reference_weights(sampling: Sampling, logits: list[float]) -> NDArray[np.float64]:
    """Temperature, top_k, top_p, min_p by full sorts in float64; equal weights stay together."""
    x: NDArray[np.float64] = np.array(logits, np.float64) / sampling.temperature
    weights: NDArray[np.float64] = np.exp(x - x.max())
    if 0 < sampling.top_k < len(weights):
        weights[weights < np.sort(weights)[-sampling.top_k]] = 0
    if sampling.top_p < 1:
        ordered = np.sort(weights)[::-1]
        last = int((np.cumsum(ordered) < sampling.top_p * weights.sum()).sum())
        weights[weights < ordered[min(last, len(ordered) - 1)]] = 0
    weights[weights < sampling.min_p] = 0
    return weights


def reference_token(weights: NDArray[np.float64], u: float) -> int:
    cdf = np.cumsum(weights)
    return int((cdf <= u * cdf[-1]).sum())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 30.0},
        {"top_k": 5},
        {"top_k": 1300, "temperature": 3.0},
        {"top_k": 5000},
        {"top_p": 0.1},
        {"top_p": 0.95},
        {"top_p": 0.99, "temperature": 50.0},
        {"top_p": 0.5, "top_k": 20},
        {"min_p": 0.05},
        {"top_k": 100, "top_p": 0.9, "min_p": 0.02, "temperature": 1.7},
    ],
    ids=str,
)
def test_draws_equal_a_reference_by_full_sorts(options: Mapping[str, Any]) -> None:
    sampling = Sampling(seed=11, **options)
    sampler = Sampler(VOCAB, "cpu")
    row = sampler.add(sampling, 3, ())
    state = stream(11, 3)
    for position in range(200):
        logits = make_logits(1, position)
        got = sampler.sample([row], logits.clone()).token_ids[0]
        weights = reference_weights(sampling, numbers(logits[0]))
        expected = reference_token(weights, uniform(state, position))
        # A float32 weight may put the number on the other side of a border, to the next token that has any weight.
        assert got == expected or abs(np.cumsum(weights)[got] / weights.sum() - uniform(state, position)) < 1e-5


def test_the_distribution_is_the_softmax() -> None:
    """Chi-square over 20,000 draws; 29 degrees of freedom have 1 in 10,000 above 65."""
    logits = make_logits(1, 5, vocab=30, spread=1.0)
    sampler = Sampler(30, "cpu")
    rows = [sampler.add(Sampling(seed=seed), 0, ()) for seed in range(1000)]
    counts = Counter[int]()
    for _ in range(20):
        counts.update(sampler.sample(rows, logits.expand(1000, -1).clone()).token_ids)
    expected = torch.softmax(logits[0].double(), -1) * 20_000
    chi_square = sum((counts[i] - float(expected[i])) ** 2 / float(expected[i]) for i in range(30))
    assert chi_square < 65


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.1, 0.3, 1.0]), min_size=1, max_size=100).filter(any),
    number=st.sampled_from([0.0, 1e-18, 0.5, 1 - 2.0**-53]),
)
def test_a_draw_never_gives_a_token_without_weight(weights: list[float], number: float) -> None:
    padded = torch.zeros(1, padded_width(len(weights)))
    padded[0, : len(weights)] = torch.tensor(weights)
    assert weights[int(draw(padded, torch.tensor([number], dtype=torch.float64)))] > 0


def mixed_options() -> list[Sampling]:
    base = Sampling(seed=1)
    return [
        replace(base, temperature=0.0),
        base,
        replace(base, top_p=0.8, temperature=1.3),
        replace(base, top_k=10, frequency_penalty=0.5),
        replace(base, min_p=0.1, repetition_penalty=1.3),
        replace(base, logit_bias={3: 20.0, 4: -100.0}),
        replace(base, typical_p=0.5),
        replace(base, temperature=0.0, presence_penalty=1.0),
        replace(base, min_tokens=100),
    ]


def test_a_row_is_independent_of_its_neighbours() -> None:
    steps = [make_logits(9, 100 + step) for step in range(12)]
    together = Sampler(VOCAB, "cpu", (EOS,))
    rows = [together.add(options, 0, (1, 2, 3)) for options in mixed_options()]
    batched = [together.sample(rows, logits.clone()).token_ids for logits in steps]
    for index, options in enumerate(mixed_options()):
        alone = Sampler(VOCAB, "cpu", (EOS,))
        row = alone.add(options, 0, (1, 2, 3))
        single = [alone.sample([row], logits[index : index + 1].clone()).token_ids[0] for logits in steps]
        assert single == [tokens[index] for tokens in batched]


def test_a_resumed_row_draws_what_the_first_attempt_would_have_drawn() -> None:
    steps = [make_logits(1, 300 + step) for step in range(10)]
    for options in mixed_options():
        first = Sampler(VOCAB, "cpu", (EOS,))
        row = first.add(options, 2, (5, 6))
        whole = [first.sample([row], logits.clone()).token_ids[0] for logits in steps]
        second = Sampler(VOCAB, "cpu", (EOS,))
        resumed = second.add(options, 2, (5, 6), whole[:4])
        assert [second.sample([resumed], logits.clone()).token_ids[0] for logits in steps[4:]] == whole[4:]


def test_rows_may_come_and_go() -> None:
    sampler = Sampler(VOCAB, "cpu")
    greedy, hot = sampler.add(Sampling(seed=1, temperature=0.0), 0, ()), sampler.add(Sampling(seed=1), 0, ())
    logits = make_logits(2, 1, spread=0.1)
    sampler.sample([greedy, hot], logits.clone())
    assert sampler.sample([hot, greedy], logits.clone()).token_ids[1] == int(logits[1].argmax())
    sampler.remove(hot)
    assert sampler.sample([greedy], logits[:1].clone()).token_ids == [int(logits[0].argmax())]
    assert (greedy.position, hot.position) == (3, 2)


def test_temperature_zero_and_top_k_one_take_the_first_of_equals() -> None:
    logits = torch.zeros(VOCAB)
    logits[[40, 30, 900]] = 2.0
    assert sample_one(Sampling(seed=1, temperature=0.0), logits) == 30
    assert sample_one(Sampling(seed=1, top_k=1), logits) == 30
    assert sample_one(Sampling(seed=1, temperature=1e-30), logits) == 30


def test_the_lowest_temperature_that_draws_does_not_overflow() -> None:
    logits = make_logits(1, 3)[0] * 1e4
    assert sample_one(Sampling(seed=1, temperature=2e-5), logits) == int(logits.argmax())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Token 1: 5.0 in the prompt; token 2: 4.9 twice in the output; token 3: 4.0, new; token 4: -1.
        ({}, 1),
        ({"repetition_penalty": 1.3}, 3),
        ({"frequency_penalty": 0.5}, 1),
        ({"presence_penalty": 1.0, "logit_bias": {1: -0.6}}, 1),
        ({"logit_bias": {1: -0.2}}, 2),
        ({"logit_bias": {1: -0.2}, "frequency_penalty": 0.4}, 1),
        ({"logit_bias": {1: -0.2}, "presence_penalty": 0.05}, 2),
        ({"logit_bias": {4: 100.0}}, 4),
    ],
    ids=str,
)
def test_penalties_and_bias(options: Mapping[str, Any], expected: int) -> None:
    logits = torch.full((10,), -5.0)
    logits[1:5] = torch.tensor([5.0, 4.9, 4.0, -1.0])
    sampling = Sampling(seed=1, temperature=0.0, **options)
    assert sample_one(sampling, logits, prompt=(1, 4), generated=(2, 2)) == expected


def test_a_repetition_penalty_lowers_negative_logits_too() -> None:
    logits = torch.tensor([-2.0, -2.5, -9.0])
    assert sample_one(Sampling(seed=1, temperature=0.0, repetition_penalty=1.5), logits, prompt=(0,)) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("logit", "penalty"), [(5.0, 1e-40), (-1e30, 1e10)])
def test_a_penalty_that_overflows_does_not_break_the_row(temperature: float, logit: float, penalty: float) -> None:
    """The penalised token becomes the likeliest, or one of two that are as unlikely; a masked one stays so."""
    logits = torch.tensor([-torch.inf, logit, -torch.inf])
    sampling = Sampling(seed=1, temperature=temperature, repetition_penalty=penalty)
    assert sample_one(sampling, logits, prompt=(0, 1)) == 1


def test_penalties_count_the_tokens_that_the_sampler_itself_chooses() -> None:
    sampler = Sampler(200, "cpu")
    row = sampler.add(Sampling(seed=1, temperature=0.0, presence_penalty=2.0), 0, ())
    logits = torch.arange(200.0)[None] / 1000
    chosen = [sampler.sample([row], logits.clone()).token_ids[0] for _ in range(150)]
    assert chosen == list(range(199, 49, -1))


def test_min_tokens_forbids_ends_until_then() -> None:
    logits = torch.zeros(1, 20)
    logits[0, [EOS, 9]] = torch.tensor([9.0, 8.0])
    sampler = Sampler(20, "cpu", (EOS,))
    row = sampler.add(Sampling(seed=1, temperature=0.0, min_tokens=2, stop_token_ids=(9,)), 0, ())
    assert [sampler.sample([row], logits.clone()).token_ids[0] for _ in range(3)] == [0, 0, EOS]


def test_logprobs_are_those_of_the_model_itself() -> None:
    logits = make_logits(4, 8)
    sampler = Sampler(VOCAB, "cpu")
    hot = Sampling(seed=4, temperature=2.0, top_p=0.9, logit_bias={5: 100.0})
    rows = [sampler.add(hot, 0, (), logprobs=wanted) for wanted in (None, 0, 2, 5)]
    batch = sampler.sample(rows, logits.clone())
    truth = torch.log_softmax(logits.double(), -1)
    assert batch.token_ids == [5, 5, 5, 5]
    assert batch.logprobs[0] is None
    for index, wanted in ((1, 0), (2, 2), (3, 5)):
        report = batch.logprobs[index]
        assert report is not None
        assert report[0] == pytest.approx(float(truth[index, 5]), abs=1e-5)
        best = torch.topk(truth[index], max(wanted, 1))
        assert [token for token, _ in report[1]] == numbers(best.indices)[:wanted]
        assert [value for _, value in report[1]] == pytest.approx(numbers(best.values)[:wanted], abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {}, {"top_p": 0.9}, {"min_p": 0.1, "typical_p": 0.7}], ids=str
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_row_fails_alone(options: Mapping[str, Any], bad: float) -> None:
    sampler = Sampler(VOCAB, "cpu")
    rows = [sampler.add(Sampling(seed=1, **options), 0, (), logprobs=1) for _ in range(4)]
    logits = make_logits(4, 2)
    sound = sampler.sample(rows, logits.clone()).token_ids
    rows = [sampler.add(Sampling(seed=1, **options), 0, (), logprobs=1) for _ in range(4)]
    logits[1, 1499] = bad
    logits[3] = -math.inf
    batch = sampler.sample(rows, logits)
    assert batch.failed == [1, 3]
    assert batch.token_ids == [sound[0], -1, sound[2], -1]
    assert [row.position for row in rows] == [1, 0, 1, 0]
    assert batch.logprobs[1] is None


def numbers(values: torch.Tensor) -> list[float]:
    return cast(list[float], values.tolist())


def typical_reference(logits: torch.Tensor, mass: float) -> set[float]:
    p = torch.softmax(logits.double(), -1)
    distance = (-p.log() + (p * p.log()).sum()).abs()
    order = distance.argsort()
    needed = int((p[order].cumsum(0) < mass).sum()) + 1
    return set(numbers(order[:needed]))


def test_typical_p_keeps_the_tokens_of_typical_surprise() -> None:
    logits = make_logits(1, 21, vocab=60, spread=2.0)
    sampler = Sampler(60, "cpu")
    rows = [sampler.add(Sampling(seed=seed, typical_p=0.4), 0, ()) for seed in range(3000)]
    seen = set(sampler.sample(rows, logits.expand(3000, -1).clone()).token_ids)
    assert seen == typical_reference(logits[0], 0.4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_of_logits(dtype: torch.dtype) -> None:
    logits = make_logits(2, 4).to(dtype)
    sampler = Sampler(VOCAB, "cpu")
    rows = [sampler.add(Sampling(seed=1, temperature=0.0), 0, ()), sampler.add(Sampling(seed=1, top_k=3), 0, ())]
    tokens = sampler.sample(rows, logits.clone()).token_ids
    assert tokens[0] == int(logits[0].float().argmax())
    assert tokens[1] in logits[1].float().topk(3).indices.tolist()


@pytest.mark.parametrize("options", [{"logit_bias": {VOCAB: 1.0}}, {"stop_token_ids": (99999,)}], ids=str)
def test_ids_outside_the_vocabulary_are_refused_by_name(options: Mapping[str, Any]) -> None:
    with pytest.raises(MeshError, match=r"between 0 and 1499") as caught:
        Sampler(VOCAB, "cpu").add(Sampling(seed=1, **options), 0, ())
    assert caught.value.param in options


@pytest.mark.gpu
@pytest.mark.parametrize("index", range(9))
def test_cuda_draws_like_the_cpu(index: int) -> None:
    options: Sequence[Sampling] = mixed_options()
    steps = [make_logits(1, 500 + step) for step in range(50)]
    results: list[list[int]] = []
    for device in ("cpu", "cuda"):
        sampler = Sampler(VOCAB, device, (EOS,))
        row = sampler.add(options[index], 0, (1, 2, 3))
        results.append([sampler.sample([row], logits.clone().to(device)).token_ids[0] for logits in steps])
    assert sum(a != b for a, b in zip(*results, strict=True)) <= 1
