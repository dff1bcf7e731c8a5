"""Steps that begin before the tokens of the step before are known change no answer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from mesh.engine.base import Constraint, Output
from tests.model import tiny
from tests.model.driver import Answer, Driver, prompt_of

Saved = tuple[str, PreTrainedModel]

# Ends by length, by token and by text; draws, penalties, a grammar, several choices.
REQUESTS: list[dict[str, Any]] = [
    {"tokens": 40},
    {"tokens": 3},
    {"tokens": 30, "sampling": {"temperature": 0.9, "seed": 5, "top_p": 0.9}},
    {"tokens": 40, "sampling": {"stop_token_ids": tuple(range(0, 250, 9)), "temperature": 1.0, "seed": 3}},
    {"tokens": 40, "sampling": {"repetition_penalty": 1.3, "frequency_penalty": 0.5}},
    {"tokens": 25, "sampling": {"n": 3, "temperature": 1.0, "seed": 8}},
    {"tokens": 20, "sampling": {"stop": ("a", "b", "c"), "temperature": 1.5, "seed": 4}},
    {"tokens": 20, "output": Output(logprobs=2)},
    {"tokens": 30, "constraint": Constraint("regex", "[a-f]{12,20}"), "sampling": {"temperature": 1.0, "seed": 9}},
]


async def _answers(path: str, **options: Any) -> tuple[list[Answer], int]:
    async with Driver(path, max_rows=6, **options) as driver:
        keys: list[int] = []
        for index, fields in enumerate(REQUESTS):
            keys.append(await driver.submit(prompt_of(5 + 7 * index, index), **fields))
            # Some join while others decode.
            await driver.until_tokens(keys[0], min(30, 4 * index))
        answers = [await driver.answer(key) for key in keys]
        await driver.until_idle()
        return answers, driver.stat("ahead_steps")


async def test_answers_are_equal(llama: Saved) -> None:
    expected, none = await _answers(llama[0])
    found, some = await _answers(llama[0], look_ahead=True)
    assert some > 20
    if not torch.cuda.is_available():  # with CUDA graphs, both look ahead
        assert none == 0
    for before, after in zip(expected, found, strict=True):
        assert after.tokens == before.tokens
        assert after.text == before.text
        assert after.ends == before.ends
        assert [entry.token_id for entry in after.logprobs] == [entry.token_id for entry in before.logprobs]


async def test_greedy_equals_generate_while_rows_give_way_to_each_other(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, max_rows=6, kv_tokens=160, look_ahead=True) as driver:
        keys = [await driver.submit(prompt_of(20, index), tokens=50) for index in range(6)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == tiny.generate(model, prompt_of(20, index), 50)
        assert driver.stat("preemptions") > 0
        assert driver.stat("ahead_steps") > 20


async def test_a_row_without_credit_takes_up_its_step_later(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, look_ahead=True) as driver:
        key = await driver.submit(prompt_of(20), tokens=30, credit=5)
        beside = await driver.submit(prompt_of(9), tokens=30)
        await driver.until_tokens(key, 5)
        await driver.answer(beside)
        driver.engine.grant(key, 100)
        assert (await driver.answer(key)).ids == tiny.generate(model, prompt_of(20), 30)
