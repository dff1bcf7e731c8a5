"""Tensor parallelism on CPUs: two processes that compute each layer together answer as one process does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh.engine.base import Output
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.memory import CacheSize
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.parallel.plan import choose_ranks
from mesh.errors import MeshError
from tests.model import tiny
from tests.model.conftest import Saved
from tests.model.driver import Answer, Driver

PAGES = 16
# 3 layers, keys and values of 2 heads of 8 numbers, 4 bytes each, for the 16 tokens of a page.
PAGE_BYTES = 16 * 3 * 2 * 2 * 8 * 4
SHARED = [20 + place * 7 % 200 for place in range(50)]
LOOP = [11, 42, 7, 99, 180, 3, 64, 21] * 5
FEW = dict.fromkeys((11, 42, 7), 100.0)


async def mixed(driver: Driver) -> list[Answer]:
    """Requests that join and leave each other, fork, guess, share a beginning, and are more than the pool holds."""
    keys = [await driver.submit(SHARED, tokens=40, sampling={"temperature": 1.0, "seed": 3, "n": 3})]
    await driver.until_tokens(keys[0], 2)
    keys.append(await driver.submit(LOOP, tokens=50, sampling={"logit_bias": FEW}))
    gone = await driver.submit([9] * 20, tokens=100)
    await driver.until_tokens(gone, 3)
    driver.engine.cancel(gone)
    keys += [await driver.submit([seed] * 30, tokens=60, output=Output(logprobs=2)) for seed in (5, 6, 7)]
    keys.append(await driver.submit([*SHARED, 5, 6, 7], tokens=30))
    return [await driver.answer(key) for key in keys]


async def test_two_ranks_answer_as_one_process(tmp_path: Path) -> None:
    # Biases are cut, and a head that is the embeddings; Llama, which has neither, is with the commands' tests.
    path, _ = tiny.save(tmp_path, "Qwen2", tie_word_embeddings=True)
    answers: list[list[Answer]] = []
    for ranks in (1, 2):
        load = {"device": "cpu", "tensor_parallel_size": ranks}
        # The page counts are equal: a rank has half of the heads, and half of the memory.
        cache = CacheSize(bytes=PAGES * PAGE_BYTES)
        async with Driver(path, model=load, kv_cache=cache, speculate_tokens=3, step_tokens=32) as driver:
            assert driver.stat("kv_pages_total") == PAGES
            answers.append(await mixed(driver))
            await driver.until_idle()
            for counter in ("preemptions", "kv_pages_copied", "prefix_hit_tokens", "accepted_tokens"):
                assert driver.stat(counter) > 0, counter
    alone, together = answers
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    for one, two in zip(alone, together, strict=True):
        expected = [each.logprob for each in one.logprobs]
        assert [each.logprob for each in two.logprobs] == pytest.approx(expected, abs=1e-4)


Change = Callable[[EngineOptions], EngineOptions]


def run_by(**changes: Any) -> Change:
    def change(options: EngineOptions) -> EngineOptions:
        return replace(options, **changes)

    return change


def loaded_by(**changes: Any) -> Change:
    def change(options: EngineOptions) -> EngineOptions:
        return replace(options, model=replace(options.model, **changes))

    return change


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("GPT2", loaded_by(), "transformers has no plan for models of type 'gpt2'"),
        ("Llama", loaded_by(tensor_parallel_size=4), r"its 'num_key_value_heads' \(2\) cannot be divided by 4"),
        ("Llama", loaded_by(quantization="int8"), "'quantization' excludes it"),
        ("Llama", run_by(kv_cache=CacheSize(parts=2)), "this process serves several models"),
        ("Llama", run_by(packed=False), "'packed' is off"),
    ],
)
def test_what_excludes_it_is_named(saved: Callable[[str], Saved], name: str, change: Change, reason: str) -> None:
    options = EngineOptions(LoadOptions(saved(name)[0], device="cpu", tensor_parallel_size=2))
    with pytest.raises(MeshError, match=reason) as caught:
        choose_ranks(change(options))
    assert caught.value.param == "tensor_parallel_size"


@pytest.mark.parametrize("given", [{}, {"tensor_parallel_size": 1}, {"num_gpus": 2, "tensor_parallel_size": 1}])
def test_one_process_unless_more_are_asked_for(llama: Saved, given: dict[str, Any]) -> None:
    options = EngineOptions(LoadOptions(llama[0], device="cpu", **given))
    assert choose_ranks(options).model.ranks == 1
