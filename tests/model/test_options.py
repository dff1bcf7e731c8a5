"""Each sampling option against a plain reading of its definition, on the logits of `model.forward`.

The reference below shares no code with the engine: float64, one row, one token at a time, full sorts. The number that
a token is drawn with is the one that SamplingOptions.seed in inference.proto documents, so that answers are equal
token for token.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from mesh.engine.base import Output
from tests.model.driver import Driver, prompt_of
from tests.model.tiny import EOS, VOCAB

Saved = tuple[str, PreTrainedModel]
Logits = NDArray[np.float64]

TOKENS = 24
# Random weights give some token nearly all of the probability: it takes heat to see a filter at work.
HOT = 4.0
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "top_k 1": {"temperature": 1.0, "top_k": 1},
    "temperature": {"temperature": HOT},
    "temperature and seed": {"temperature": HOT, "seed": -(2**63)},
    "top_k": {"temperature": HOT, "top_k": 7},
    "top_p": {"temperature": HOT, "top_p": 0.6},
    "top_k and top_p": {"temperature": HOT, "top_k": 20, "top_p": 0.5},
    "min_p": {"temperature": HOT, "min_p": 0.3},
    "typical_p": {"temperature": HOT, "typical_p": 0.4},
    "repetition": {"temperature": 0.0, "repetition_penalty": 1.7},
    "frequency": {"temperature": 0.0, "frequency_penalty": 1.9},
    "presence": {"temperature": HOT, "presence_penalty": 2.0},
    "negative penalties": {"temperature": HOT, "presence_penalty": -1.5, "frequency_penalty": -0.5},
    "logit_bias": {"temperature": 0.0, "logit_bias": {5: 100.0, 9: -100.0, 17: 4.0}},
    "min_tokens": {"temperature": HOT, "min_tokens": 20, "stop_token_ids": tuple(range(0, 250, 2))},
    "all of them": {
        "temperature": 2.0,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.01,
        "typical_p": 0.9,
        "seed": 12,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "logit_bias": {7: 2.0},
    },
}


async def test_rows_with_all_options_share_a_batch(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, max_rows=len(OPTIONS)) as driver:
        keys = {
            name: await driver.submit(prompt_of(9 + index, index), tokens=TOKENS, sampling=options)
            for index, (name, options) in enumerate(OPTIONS.items())
        }
        for index, (name, options) in enumerate(OPTIONS.items()):
            answer = await driver.answer(keys[name])
            assert answer.ids == _reference(model, prompt_of(9 + index, index), {"seed": 1, **options}), name


async def test_choices_draw_numbers_of_their_own(llama: Saved) -> None:
    path, model = llama
    async with Driver(path) as driver:
        options = {"temperature": HOT, "seed": 3}
        answer = await driver.ask(prompt_of(10), tokens=TOKENS, sampling={**options, "n": 3})
    for choice in range(3):
        assert answer.tokens[choice] == _reference(model, prompt_of(10), options, choice)
    assert answer.tokens[0] != answer.tokens[1]


async def test_log_probabilities_are_the_models_own(llama: Saved) -> None:
    path, model = llama
    options = {"temperature": HOT, "top_k": 5, "presence_penalty": 1.0, "seed": 2}
    async with Driver(path) as driver:
        answer = await driver.ask(prompt_of(10), tokens=TOKENS, sampling=options, output=Output(logprobs=4))
    ids = prompt_of(10)
    for entry in answer.logprobs:
        expected = torch.log_softmax(torch.from_numpy(_logits(model, ids)), -1)
        values, likeliest = expected.topk(4)
        assert entry.logprob == pytest.approx(expected[entry.token_id].item(), abs=1e-4)
        assert [top.token_id for top in entry.top] == likeliest.tolist()
        assert [top.logprob for top in entry.top] == pytest.approx(list(map(float, values)), abs=1e-4)
        ids.append(entry.token_id)
    assert ids[10:] == answer.ids


async def test_seeds_together_draw_from_the_distribution(llama: Saved) -> None:
    """Chi-square of the first token over many seeds; 0.999 quantile by Wilson and Hilferty."""
    path, model = llama
    draws = 1000
    async with Driver(path, max_rows=64) as driver:
        options = {"temperature": HOT, "top_p": 0.9}
        keys = [
            await driver.submit(prompt_of(12), tokens=1, sampling={**options, "seed": 1000 + seed})
            for seed in range(draws)
        ]
        found = Counter([(await driver.answer(key)).ids[0] for key in keys])
    weights = _weights(_logits(model, prompt_of(12)), options)
    expected = draws * weights / weights.sum()
    assert set(found) <= set(np.flatnonzero(expected).tolist())
    common = np.flatnonzero(expected >= 5)
    rare = draws - expected[common].sum()
    statistic = sum((found[int(token)] - expected[token]) ** 2 / expected[token] for token in common)
    statistic += (draws - sum(found[int(token)] for token in common) - rare) ** 2 / max(rare, 1.0)
    degrees = len(common)
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert degrees > 5
    assert statistic < limit


def _reference(model: PreTrainedModel, prompt: list[int], options: dict[str, Any], choice: int = 0) -> list[int]:
    """The answer to a prompt, until TOKENS or a stop token."""
    answer: list[int] = []
    stops = set(options.get("stop_token_ids", ()))
    while len(answer) < TOKENS:
        logits = _edited(_logits(model, prompt + answer), prompt, answer, options)
        if not options["temperature"]:
            answer.append(int(np.argmax(logits)))
        else:
            cdf = np.cumsum(_weights(logits, options))
            goal = _uniform(options["seed"], choice, len(answer)) * cdf[-1]
            answer.append(int(np.flatnonzero(cdf > goal)[0]))
        if answer[-1] in stops and len(answer) > options.get("min_tokens", 0):
            break
    return answer


def _logits(model: PreTrainedModel, ids: list[int]) -> Logits:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double().numpy()


def _edited(logits: Logits, prompt: list[int], answer: list[int], options: dict[str, Any]) -> Logits:
    """Penalties, bias, and what min_tokens forbids."""
    for token in {*prompt, *answer}:
        repetition = options.get("repetition_penalty", 1.0)
        logits[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
    for token, count in Counter(answer).items():
        logits[token] -= options.get("frequency_penalty", 0.0) * count + options.get("presence_penalty", 0.0)
    for token, bias in options.get("logit_bias", {}).items():
        logits[token] += bias
    if len(answer) < options.get("min_tokens", 0):
        logits[[EOS, *options.get("stop_token_ids", ())]] = -np.inf
    return logits


def _weights(logits: Logits, options: dict[str, Any]) -> Logits:
    """Unnormalised probabilities after temperature and filters."""
    weights = np.exp((logits - logits.max()) / options["temperature"])
    if top_k := options.get("top_k"):
        weights[weights < np.sort(weights)[-min(top_k, VOCAB)]] = 0
    falling = np.sort(weights)[::-1]
    reached = np.flatnonzero(np.cumsum(falling) >= options.get("top_p", 1.0) * weights.sum() - 1e-12)
    if options.get("top_p", 1.0) < 1:
        weights[weights < falling[reached[0]]] = 0
    weights[weights < options.get("min_p", 0.0) * weights.max()] = 0
    if (typical_p := options.get("typical_p", 1.0)) < 1:
        probabilities = weights / weights.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(probabilities)
            entropy = np.nansum(probabilities * surprise)
            distance = np.abs(surprise - entropy)
        order = np.argsort(distance, kind="stable")
        enough = np.flatnonzero(np.cumsum(probabilities[order]) >= typical_p)[0]
        weights[distance > distance[order[enough]]] = 0
    return weights


def _uniform(seed: int, choice: int, position: int) -> float:
    """As inference.proto has it, on Python's whole numbers."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        z = (x + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    return (mix(mix(mix(seed & mask) ^ choice) ^ position) >> 11) * 2.0**-53
