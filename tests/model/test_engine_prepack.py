"""Linear layers in oneDNN's layout: the same answers, and no layer is touched that the model's code looks into."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mesh.engine.base import Output
from mesh.engine.transformers.layers.prepack import PackedLinear, prepack
from mesh.engine.transformers.layers.siblings import Part
from tests.model import tiny
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 4}

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A Llama whose layers are large enough to be worth it."""
    return tiny.save(tmp_path_factory.mktemp("wide"), "Llama", **WIDE)


def packed_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, PackedLinear | Part) for module in model.modules())


def joined_layers(model: torch.nn.Module) -> list[str]:
    """By their path without the number of the block."""
    named = cast("Iterable[tuple[str, torch.nn.Module]]", model.named_modules())
    return sorted({re.sub(r".*\.\d+\.", "", name) for name, module in named if isinstance(module, Part)})


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


def test_layers_that_read_the_same_input_are_computed_together() -> None:
    model: Any = tiny.make_model("Llama", **WIDE)
    ids = torch.tensor([prompt_of(40)])
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        prepack(model, tiny.VOCAB)
        mlp = ["mlp.gate_proj", "mlp.up_proj"]
        assert joined_layers(model) == [*mlp, "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"]
        attention = model.model.layers[0].self_attn
        assert attention.q_proj.whole is attention.k_proj.whole is attention.v_proj.whole
        assert attention.q_proj.whole is not model.model.layers[1].self_attn.q_proj.whole
        assert torch.allclose(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("joined", [True, False])
def test_a_layer_by_itself_computes_what_it_is_given(joined: bool) -> None:
    model: Any = tiny.make_model("Llama", **WIDE)
    plain = [getattr(model.model.layers[0].self_attn, name) for name in ("q_proj", "k_proj", "v_proj")]
    first, second = torch.randn(2, 1, 6, 128).unbind()
    with torch.inference_mode():
        expected = [[layer(x) for layer in plain] for x in (first, second)]
        if joined:
            prepack(model, tiny.VOCAB)
        attention = model.model.layers[0].self_attn
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        # Another input in between, the same layer twice, another order, an input changed in place after the last call.
        found = [[q(first), k(first), v(first)], [q(second), k(second), v(second)]]
        mixed = [v(second), q(first), k(second), q(first), q(first), v(second)]
        wanted = [expected[1][2], expected[0][0], expected[1][1], expected[0][0], expected[0][0], expected[1][2]]
        torch.testing.assert_close([*found[0], *found[1], *mixed], [*expected[0], *expected[1], *wanted])


class Overwriting(torch.nn.Module):
    """An MLP that changes its input in place between two layers."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(gate * self.up_proj(x.mul_(2)))


def test_siblings_whose_input_changes_in_between_stay_single() -> None:
    model: Any = tiny.make_model("Llama", **WIDE)
    model.model.layers[0].mlp = Overwriting(model.model.layers[0].mlp)
    ids = torch.tensor([prompt_of(40)])
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        assert prepack(model, tiny.VOCAB) > 3
        assert not joined_layers(model)
        assert torch.allclose(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


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


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="needs Linux with large pages")
def test_pytorch_asks_for_large_pages() -> None:
    """Seen by where its blocks begin: whole pages can be asked for. In a process of its own, without what this one has
    set, as PyTorch reads the setting once."""
    program = (
        "import mesh.engine.transformers, torch\nprint(*[torch.empty(1 << 20).data_ptr() % 4096 for _ in range(4)])"
    )
    environ = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert done.stdout.split() == ["0"] * 4
