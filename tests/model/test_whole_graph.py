"""A model's forward as one graph: recorded it is the model's code to the bit, compiled it gives the same answers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.base import Sampling
from mesh.engine.transformers.attention.kv_cache import KvCache
from mesh.engine.transformers.layers.prepack import prepack
from mesh.engine.transformers.layers.whole_graph import Forward
from mesh.engine.transformers.runners.packed import PackedRunner
from mesh.engine.transformers.runners.selftest import check_packed
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row, Work
from tests.model import tiny
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 4}
_PAGE, _PAGES = 16, 20

# torch's compiler warns of torch's own code when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def as_served() -> Iterator[None]:
    """As on the engine's thread."""
    with torch.inference_mode():
        yield


def runner_of(model: PreTrainedModel) -> PackedRunner:
    assert check_packed(model, tiny.VOCAB, 256, _PAGE).reason is None
    return PackedRunner(model, KvCache(_PAGES, _PAGE, model.dtype, model.device), 2, _PAGES - 1)


def steps_of(runner: PackedRunner) -> list[torch.Tensor]:
    """Logits of a prompt, and of two tokens after it, which read what the steps before left in each layer's pages."""
    ids = prompt_of(22)
    row = Row(Work(key=0, order=0, sampling=Sampling(seed=0), prompt=ids), 0, ids[:20], 0, 0, frozenset(), slot=0)
    row.pages = [1, 2]
    found = [runner.forward(Batch([], [Chunk(row, 20, 1)])).clone()]
    for computed in (20, 21):
        row.computed = computed
        row.tokens.append(ids[computed])
        found.append(runner.forward(Batch([row], [])).clone())
    return found


def plain(graph: torch.fx.GraphModule) -> Forward:
    """The graph as it was recorded."""
    return graph


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "GPT2"])
def test_the_recording_is_the_model(name: str) -> None:
    model = tiny.make_model(name)
    runner = runner_of(model)
    expected = [*runner.warm_up(200), *steps_of(runner)]
    runner.reset()
    runner.compile_whole(plain)
    # Not the model's code: it has lost its layers.
    for module in list(model.modules()):
        module._modules.clear()  # pyright: ignore[reportPrivateUsage]
    found = [*runner.warm_up(200), *steps_of(runner)]
    assert len(found) == 6
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_packed_layers_stay_what_they_are() -> None:
    model = tiny.make_model("Llama", **WIDE)
    assert prepack(model, tiny.VOCAB)
    runner = runner_of(model)
    expected = runner.warm_up(200)
    runner.compile_whole(plain)
    assert all(torch.equal(a, b) for a, b in zip(runner.warm_up(200), expected, strict=True))
    runner.forget_whole()
    assert all(torch.equal(a, b) for a, b in zip(runner.warm_up(200), expected, strict=True))


async def test_what_cannot_be_recorded_is_served_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = tiny.save(tmp_path, "Mixtral")
    async with Driver(path) as driver:
        expected = (await driver.ask(prompt_of(9), tokens=4)).ids
    with caplog.at_level(logging.WARNING):
        async with Driver(path, compile=True) as driver:
            assert (await driver.ask(prompt_of(9), tokens=4)).ids == expected
    assert "is not compiled: Expected inputs of BF16" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
async def test_compiled_it_gives_each_row_the_answer_that_it_gets_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    path, model = tiny.save(tmp_path / "model", "Llama", **WIDE)
    prompts = [prompt_of(length) for length in (1, 5, 17, 40)]
    with caplog.at_level(logging.INFO):
        async with Driver(path, compile=True) as driver:
            keys = [await driver.submit(prompt, tokens=12) for prompt in prompts]
            found = [(await driver.answer(key)).ids for key in keys]
            alone = [(await driver.ask(prompt, tokens=12)).ids for prompt in prompts]
    assert "compiled" in caplog.messages
    assert found == alone == [tiny.generate(model, prompt, 12) for prompt in prompts]
