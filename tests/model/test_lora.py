"""LoRA adapters: each row's answer is that of the model with its adapter merged into the weights."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import PreTrainedModel

from mesh.engine.base import Chat, Message, Text
from mesh.engine.transformers.lora.config import AdapterSource
from mesh.engine.transformers.lora.hooks import Adapter
from mesh.errors import ErrorKind, MeshError
from tests.harness import eventually
from tests.model import tiny
from tests.model.adapters import LLAMA, Made, make_adapter, read, write
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
TARGETS = {
    "Llama": LLAMA,
    "GPT2": ("c_attn", "c_fc", "c_proj"),
    "Falcon": ("query_key_value", "dense_h_to_4h"),
    "T5": ("q", "v", "wi"),
}


@pytest.fixture(scope="module")
def made(llama: Saved, tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """Three adapters of the Llama, of different ranks."""
    return adapters_of(llama[1], tmp_path_factory.mktemp("adapters"), LLAMA)


def adapters_of(model: PreTrainedModel, folder: Path, targets: Sequence[str]) -> list[Made]:
    return [
        make_adapter(folder / str(rank), model, rank=rank, alpha=2 * rank, targets=targets, seed=rank)
        for rank in (1, 4, 8)
    ]


def sources(made: Sequence[Made]) -> tuple[AdapterSource, ...]:
    return tuple(AdapterSource(f"a{index}", each.path) for index, each in enumerate(made))


async def check_mixture(driver: Driver, model: PreTrainedModel, made: Sequence[Made]) -> None:
    """Rows of all adapters and of none that join and leave at different steps."""
    models = [*(each.merged for each in made), model]
    keys: list[int] = []
    for index in range(12):
        name = f"a{index % 4}" if index % 4 < len(made) else None
        keys.append(await driver.submit(prompt_of(5 * index + 1, index), tokens=6 + 3 * (index % 5), adapter=name))
        if index % 3 == 2:
            await driver.until_tokens(keys[-1], 2)
    for index, key in enumerate(keys):
        prompt, tokens = prompt_of(5 * index + 1, index), 6 + 3 * (index % 5)
        assert (await driver.answer(key)).ids == tiny.generate(models[index % 4], prompt, tokens), index


@pytest.mark.parametrize("name", TARGETS)
async def test_each_row_has_its_own_adapter(saved: Callable[[str], Saved], tmp_path: Path, name: str) -> None:
    path, model = saved(name)
    made = adapters_of(model, tmp_path, TARGETS[name])
    async with Driver(path, adapters=sources(made)) as driver:
        await check_mixture(driver, model, made)


async def test_on_layers_in_onednn_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path, model = tiny.save(tmp_path / "wide", "Llama", **WIDE)
    made = adapters_of(model, tmp_path, LLAMA)
    async with Driver(path, adapters=sources(made)) as driver:
        assert "oneDNN" in caplog.text
        await check_mixture(driver, model, made)


async def test_preempted_and_computed_again(llama: Saved, made: list[Made]) -> None:
    async with Driver(llama[0], kv_tokens=96, adapters=sources(made)) as driver:
        keys = [await driver.submit(prompt_of(20, index), tokens=40, adapter=f"a{index}") for index in range(3)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == tiny.generate(made[index].merged, prompt_of(20, index), 40)
        assert driver.stat("preemptions") > 0


async def test_resumed_at_every_token(llama: Saved, made: list[Made]) -> None:
    sampling = {"temperature": 1.0, "seed": 9}
    async with Driver(llama[0], max_rows=16, adapters=sources(made)) as driver:
        whole = (await driver.ask(prompt_of(18), tokens=8, sampling=sampling, adapter="a1")).ids
        for done in range(8):
            resumed = await driver.ask(
                prompt_of(18), tokens=8, sampling=sampling, adapter="a1", resume={0: whole[:done]}
            )
            assert resumed.ids == whole[done:], done


# The prefix cache


async def test_no_page_is_shared_between_adapters(llama: Saved, made: list[Made]) -> None:
    async with Driver(llama[0], adapters=sources(made)) as driver:
        prompt = prompt_of(70)
        for name, model in (("a0", made[0].merged), ("a1", made[1].merged), (None, llama[1])):
            expected = tiny.generate(model, prompt, 8)
            for cached in (0, 64):
                answer = await driver.ask(prompt, tokens=8, adapter=name)
                assert answer.finished is not None
                assert (answer.ids, answer.finished.cached_tokens) == (expected, cached), name


async def test_other_weights_under_the_same_name_find_no_page(llama: Saved, made: list[Made]) -> None:
    async with Driver(llama[0]) as driver:
        engine, prompt = driver.engine, prompt_of(70)
        for each in made[:2]:
            info = await engine.load_adapter("", "changing", each.path)
            assert info in engine.models
            answer = await driver.ask(prompt, tokens=8, adapter="changing")
            assert answer.ids == tiny.generate(each.merged, prompt, 8)
            await engine.unload_adapter("changing")


# Loading and unloading


async def test_loaded_and_unloaded_while_rows_run(llama: Saved, made: list[Made]) -> None:
    async with Driver(llama[0], adapters=sources(made[:1])) as driver:
        engine, prompt = driver.engine, prompt_of(9)
        # On credit, so that they cannot end before they are allowed to.
        keys = [await driver.submit(prompt, tokens=40, adapter=name, credit=3) for name in ("a0", None)]
        await driver.until_tokens(keys[0], 3)
        await engine.load_adapter("", "late", made[2].path)
        keys.append(await driver.submit(prompt, tokens=40, adapter="late", credit=3))
        await driver.until_tokens(keys[2], 3)
        await engine.unload_adapter("late")
        await engine.unload_adapter("a0")
        with pytest.raises(MeshError, match="'late' is not served here") as caught:
            await driver.submit(prompt, adapter="late")
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
        assert [model.name for model in engine.models] == [Path(llama[0]).name]
        for key, model in zip(keys, (made[0].merged, llama[1], made[2].merged), strict=True):
            engine.grant(key, 40)
            assert (await driver.answer(key)).ids == tiny.generate(model, prompt, 40)


async def test_memory_is_freed_with_the_last_row(llama: Saved, made: list[Made]) -> None:
    def in_memory() -> int:
        return sum(type(each) is Adapter for each in gc.get_objects())

    async with Driver(llama[0]) as driver:
        gc.collect()
        before = in_memory()
        gc.disable()  # a cycle would stay
        try:
            await driver.engine.load_adapter("", "a", made[0].path)
            keys = [await driver.submit(prompt_of(9), tokens=200, adapter="a", credit=3) for _ in range(2)]
            await driver.until_tokens(keys[1], 3)
            await driver.engine.unload_adapter("a")
            assert in_memory() == before + 1
            driver.engine.cancel(keys[0])
            driver.engine.grant(keys[1], 200)
            await driver.answer(keys[1])
            await driver.until_idle()
            await eventually(lambda: in_memory() == before)
        finally:
            gc.enable()


async def test_chats_by_the_adapters_own_template(llama: Saved, tmp_path: Path) -> None:
    made = make_adapter(tmp_path, llama[1])
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}?")
    chat = Chat((Message("user", ("abc",)),))
    async with Driver(llama[0], adapters=sources([made])) as driver:
        name = driver.engine.models[0].name
        assert await driver.engine.tokenize("a0", chat) == await driver.engine.tokenize(name, Text("abc?"))
        assert await driver.engine.tokenize(name, chat) != await driver.engine.tokenize("a0", chat)
        answer = await driver.ask(chat, tokens=8, adapter="a0")
        assert answer.ids == tiny.generate(made.merged, await driver.engine.tokenize(name, Text("abc?")), 8)


async def test_adapters_are_models_of_their_own(llama: Saved, made: list[Made], tmp_path: Path) -> None:
    async with Driver(llama[0], adapters=sources(made[:2])) as driver:
        base, first, second = driver.engine.models
        assert (base.base, base.adapters) == (None, ("a0", "a1"))
        assert (first.base, second.base) == (base.name, base.name)
        assert len({base.fingerprint, first.fingerprint, second.fingerprint}) == 3
        # The same weights in another folder are the same adapter, with another scale they are not.
        config, tensors = read(made[0].path)
        write(tmp_path / "same", {**config, "base_model_name_or_path": "elsewhere"}, tensors)
        write(tmp_path / "other", {**config, "lora_alpha": 3}, tensors)
        same = await driver.engine.load_adapter(base.name, "same", str(tmp_path / "same"))
        other = await driver.engine.load_adapter(base.name, "other", str(tmp_path / "other"))
        assert same.fingerprint == first.fingerprint != other.fingerprint


async def test_limits_and_names(llama: Saved, made: list[Made]) -> None:
    async with Driver(llama[0], adapters=sources(made[:1]), max_loras=2) as driver:
        engine, path = driver.engine, made[1].path
        # Two at the same moment: the place is taken by the first.
        results = await asyncio.gather(
            *(engine.load_adapter("", name, path) for name in ("x", "y")), return_exceptions=True
        )
        refusal = cast("MeshError", results[1])
        assert "'max_loras' is 2" in refusal.message
        for name, words in ((Path(llama[0]).name, "base model's"), ("x", "loaded already"), ("", "printable")):
            with pytest.raises(MeshError, match=words):
                await engine.load_adapter("", name, path)
        with pytest.raises(MeshError, match="loaded: 'a0', 'x'"):
            await engine.unload_adapter("y")
        with pytest.raises(MeshError, match="an adapter itself"):
            await engine.load_adapter("x", "z", path)
    async with Driver(llama[0], max_loras=0) as driver:
        with pytest.raises(MeshError, match="takes no adapters: 'max_loras' is 0"):
            await driver.engine.load_adapter("", "x", path)
