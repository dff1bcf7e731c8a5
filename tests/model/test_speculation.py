"""Speculation changes no answer: the same tokens, log probabilities and ends with and without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from transformers import PreTrainedModel

from mesh.engine.base import Constraint, Output
from tests.model.driver import Answer, Driver, prompt_of
from tests.model.tiny import generate

Saved = tuple[str, PreTrainedModel]
# A loop of eight tokens that likely ones follow: guesses are right for some tokens and then wrong.
LOOP = [11, 42, 7, 99, 180, 3, 64, 21] * 5
FEW = dict.fromkeys((11, 42, 7), 100.0)
SCHEMA = '{"type": "array", "items": {"enum": ["abab", "cdcd"]}, "minItems": 6, "maxItems": 6}'

CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"sampling": {"temperature": 1.0, "seed": 3}},
    "few tokens": {"sampling": {"temperature": 1.0, "seed": 4, "logit_bias": FEW}},
    "filters": {"sampling": {"temperature": 1.0, "seed": 5, "logit_bias": FEW, "top_p": 0.9, "top_k": 3, "min_p": 0.1}},
    "penalties": {"sampling": {"logit_bias": FEW, "frequency_penalty": 0.3, "repetition_penalty": 1.2}},
    "min tokens": {"sampling": {"logit_bias": FEW, "stop_token_ids": (42,), "min_tokens": 9}},
    "stop token": {"sampling": {"temperature": 1.0, "seed": 9, "logit_bias": FEW, "stop_token_ids": (7,)}},
    "stop string": {"sampling": {"temperature": 1.0, "seed": 9, "logit_bias": FEW, "stop": (")K)K",)}},
    "choices": {"sampling": {"temperature": 1.0, "seed": 6, "logit_bias": FEW, "n": 4}},
    "best of": {"sampling": {"temperature": 1.0, "seed": 6, "logit_bias": FEW, "n": 2, "best_of": 4}},
    "credit": {"sampling": {"logit_bias": FEW, "n": 2}, "credit": 200},
    "log probabilities": {"sampling": {"logit_bias": FEW}, "output": Output(logprobs=3, prompt_logprobs=1)},
    "grammar": {"sampling": {"temperature": 1.0, "seed": 8}, "constraint": Constraint("json_schema", SCHEMA)},
    "resumed": {"sampling": {"logit_bias": FEW}, "resume": {0: [11, 42, 7, 11, 42]}},
}


def facts(answer: Answer) -> dict[str, Any]:
    assert answer.failed is None
    ends = {choice: (end.reason, end.stop_string, end.stop_token_id) for choice, end in answer.ends.items()}
    counts = (answer.finished.prompt_tokens, answer.finished.completion_tokens) if answer.finished else None
    return {"tokens": answer.tokens, "text": answer.text, "ends": ends, "counts": counts}


async def answers(path: str, cases: Mapping[str, dict[str, Any]], **options: Any) -> tuple[dict[str, Answer], Driver]:
    """All cases at once."""
    async with Driver(path, max_rows=32, **options) as driver:
        keys = {name: await driver.submit(LOOP, tokens=60, **case) for name, case in cases.items()}
        found = {name: await driver.answer(key) for name, key in keys.items()}
        await driver.until_idle()
        return found, driver


@pytest.mark.parametrize("tokens", [1, 4])
async def test_nothing_is_changed(llama: Saved, tokens: int) -> None:
    plain, _ = await answers(llama[0], CASES)
    async with Driver(llama[0], max_rows=32, speculate_tokens=tokens) as driver:
        for name, case in CASES.items():
            before = driver.stat("steps")
            answer = await driver.ask(LOOP, tokens=60, **case)
            assert facts(answer) == facts(plain[name]), name
            values = [[each.logprob for each in entry.top] for entry in answer.logprobs]
            assert values == [
                pytest.approx([each.logprob for each in entry.top], abs=1e-4) for entry in plain[name].logprobs
            ]
            if name == "few tokens":
                assert driver.stat("steps") - before < 50
        drafted, accepted = driver.stat("drafted_tokens"), driver.stat("accepted_tokens")
        assert 50 < accepted < drafted
        await driver.until_idle()
    together, driver = await answers(llama[0], CASES, speculate_tokens=tokens)
    assert {name: facts(answer) for name, answer in together.items()} == {
        name: facts(answer) for name, answer in plain.items()
    }


async def test_guesses_take_no_page_from_others(llama: Saved) -> None:
    cases = {str(seed): {"sampling": {"temperature": 1.0, "seed": seed, "logit_bias": FEW}} for seed in range(6)}
    plain, _ = await answers(llama[0], cases)
    tight, _ = await answers(llama[0], cases, speculate_tokens=4, kv_tokens=208, prefix_cache=False)
    assert {name: facts(answer) for name, answer in tight.items()} == {
        name: facts(answer) for name, answer in plain.items()
    }


@pytest.mark.parametrize("name", ["Gemma2", "Mamba"])
async def test_windows_and_models_that_cannot(saved: Callable[[str], Saved], name: str) -> None:
    path, model = saved(name)
    async with Driver(path, speculate_tokens=4) as driver:
        assert (await driver.ask(LOOP, tokens=40)).ids == generate(model, LOOP, 40)
        assert (driver.stat("drafted_tokens") > 0) is (name == "Gemma2")


async def test_credit_is_kept_to(llama: Saved) -> None:
    async with Driver(llama[0], speculate_tokens=4) as driver:
        whole = (await driver.ask(LOOP, tokens=30, sampling={"logit_bias": FEW})).ids
        key = await driver.submit(LOOP, tokens=30, sampling={"logit_bias": FEW}, credit=3)
        for granted in range(3, 30, 3):
            await driver.until_tokens(key, granted)
            await driver.ask(prompt_of(5), tokens=3)
            assert driver.answers[key].ids == whole[:granted]
            driver.engine.grant(key, 3)
        assert (await driver.answer(key)).ids == whole
