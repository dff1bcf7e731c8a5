"""Linear layers in oneDNN's layout: the same answers, and no layer is touched that the model's code looks into."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mesh.engine.base import Output
from mesh.engine.transformers.layers.prepack import PackedLinear, prepack
from tests.model import tiny
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A Llama whose layers are large enough to be worth it."""
    return tiny.save(tmp_path_factory.mktemp("wide"), "Llama", **WIDE)


def packed_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "changes"), [("Llama", WIDE), ("GPT2", {"n_embd": 128, "hidden_size": 128}), ("Phi", WIDE)]
)
def test_the_logits_stay(name: str, changes: dict[str, Any]) -> None:
    model = tiny.make_model(name, **changes)
    ids = torch.tensor([prompt_of(40)])
    with torch.inference_mode():
        expected = cast("Any", model)(input_ids=ids).logits
        replaced = prepack(model, tiny.VOCAB)
        assert replaced == packed_layers(model) > 3
        assert torch.allclose(cast("Any", model)(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert model.dtype == torch.float32


class Reader(LlamaForCausalLM):
    """Code that reads the weight of a linear layer."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        output = cast("Any", self.model)(input_ids=input_ids, use_cache=use_cache)
        output.logits = torch.nn.functional.linear(output.last_hidden_state, self.lm_head.weight)
        return output


def test_a_model_that_reads_its_weights_stays_as_it_is() -> None:
    model = Reader(cast("LlamaConfig", tiny.make_model("Llama", **WIDE).config))
    with torch.inference_mode():
        assert prepack(model, tiny.VOCAB) == 0
    assert packed_layers(model) == 0
    assert type(model.lm_head) is torch.nn.Linear


def test_layers_that_others_have_changed_stay_as_they_are() -> None:
    model = tiny.make_model("Llama", **WIDE)
    layers = cast("Any", model).model.layers
    # As compressed-tensors does it: the weight under another name, and a forward of the module's own.
    changed, plain = layers[0].mlp.up_proj, layers[1].mlp.up_proj
    weight = changed.weight.detach()
    del changed.weight
    changed.weight_packed = torch.nn.Parameter(weight / 2, requires_grad=False)

    def halved(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, changed.weight_packed)

    changed.forward = halved
    before = packed_layers(model)
    with torch.inference_mode():
        assert prepack(model, tiny.VOCAB) > before
    assert layers[0].mlp.up_proj is changed
    assert layers[1].mlp.up_proj is not plain


async def test_answers_through_the_engine(wide: Saved, caplog: pytest.LogCaptureFixture) -> None:
    path, model = wide
    caplog.set_level("INFO")
    async with Driver(path) as driver:
        assert "oneDNN" in caplog.text
        keys = [await driver.submit(prompt_of(9 * index + 1, index), tokens=20) for index in range(5)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == tiny.generate(model, prompt_of(9 * index + 1, index), 20)


async def test_an_answer_does_not_depend_on_its_neighbours(wide: Saved) -> None:
    async with Driver(wide[0], prefix_cache=False) as driver:
        alone = await driver.ask(prompt_of(33), output=Output(logprobs=0))
        keys = [await driver.submit(prompt_of(33), output=Output(logprobs=0))]
        keys += [await driver.submit(prompt_of(7 * index + 1, index), tokens=12) for index in range(5)]
        beside = await driver.answer(keys[0])
        assert beside.ids == alone.ids
        expected = [entry.logprob for entry in alone.logprobs]
        assert [entry.logprob for entry in beside.logprobs] == pytest.approx(expected, abs=5e-5)


async def test_switched_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path, model = tiny.save(tmp_path, "Llama", **WIDE)
    async with Driver(path, prepack=False) as driver:
        assert (await driver.ask(prompt_of(20))).ids == tiny.generate(model, prompt_of(20), 16)
    assert "oneDNN" not in caplog.text
