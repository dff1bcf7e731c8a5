"""The per-sequence path keeps the same promises as the packed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import LlamaConfig, PreTrainedModel

from mesh.engine.transformers.runners.per_sequence import PerSequenceRunner, bytes_per_token
from tests.model.driver import Driver, prompt_of
from tests.model.tiny import VOCAB, generate

Saved = tuple[str, PreTrainedModel]
SAMPLED = {"temperature": 1.0, "seed": 77}
NAMES = ("Falcon", "Mamba", "T5")


@pytest.mark.parametrize("name", NAMES)
async def test_resumed_at_every_token(saved: Callable[[str], Saved], name: str) -> None:
    async with Driver(saved(name)[0], max_rows=16) as driver:
        whole = (await driver.ask(prompt_of(18), tokens=8, sampling=SAMPLED)).ids
        keys = [
            await driver.submit(prompt_of(18), tokens=8, sampling=SAMPLED, resume={0: whole[:done]})
            for done in range(8)
        ]
        for done, key in enumerate(keys):
            assert (await driver.answer(key)).ids == whole[done:], done


@pytest.mark.parametrize("name", NAMES)
async def test_preempted(saved: Callable[[str], Saved], name: str) -> None:
    path, model = saved(name)
    async with Driver(path, kv_tokens=96) as driver:
        keys = [await driver.submit(prompt_of(20, index), tokens=40) for index in range(3)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == generate(model, prompt_of(20, index), 40), index
        assert driver.stat("preemptions") > 0
        assert driver.stat("kv_pages_used") == 0


@pytest.mark.parametrize("name", NAMES)
async def test_choices_and_cancel(saved: Callable[[str], Saved], name: str) -> None:
    async with Driver(saved(name)[0]) as driver:
        both = await driver.ask(prompt_of(18), tokens=8, sampling={**SAMPLED, "n": 2})
        alone = await driver.ask(prompt_of(18), tokens=8, sampling=SAMPLED)
        assert both.tokens[0] == alone.ids
        assert both.tokens[1] != alone.ids
        key = await driver.submit(prompt_of(18), tokens=200)
        await driver.until_tokens(key, 2)
        driver.engine.cancel(key)
        await driver.until_idle()


async def test_switched_off_by_option(saved: Callable[[str], Saved]) -> None:
    path, model = saved("Llama")
    async with Driver(path, packed=False) as driver:
        assert driver.engine.models[0].execution == "per_sequence"
        assert (await driver.ask(prompt_of(30))).ids == generate(model, prompt_of(30), 16)


@pytest.mark.parametrize("name", ["Bamba", "FalconMamba", "Falcon alibi", "GPTNeo", "Bart"])
def test_a_models_cache_is_used_where_it_works(saved: Callable[[str], Saved], name: str) -> None:
    assert PerSequenceRunner(saved(name)[1]).check_cache(VOCAB) is None


def test_a_model_without_a_cache_says_so(saved: Callable[[str], Saved]) -> None:
    reason = PerSequenceRunner(saved("RecurrentGemma")[1]).check_cache(VOCAB)
    assert reason is not None
    assert "its cache does not work" in reason


def test_a_cache_of_layers_of_different_sizes_is_their_sum() -> None:
    sizes: dict[str, Any] = {"num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
    sizes["per_layer_config"] = {1: {"num_key_value_heads": 1}}
    config = LlamaConfig(**sizes)
    if not getattr(config, "is_heterogeneous", False):
        pytest.skip("this version of transformers knows no layers of different sizes")
    assert bytes_per_token(config, 2) == 2 * 2 * 8 * (4 + 1 + 4)
