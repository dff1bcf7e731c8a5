"""Linear layers in 8 bits, against a reference that spells the arithmetic out in whole numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.layers.int8 import Int8Linear, quantize
from mesh.engine.transformers.layers.siblings import Part
from mesh.engine.transformers.loading.loader import load
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.errors import MeshError
from tests.model import tiny
from tests.model.driver import Driver, prompt_of
from tests.model.test_engine_prepack import WIDE, Reader

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


class Reference(torch.nn.Module):
    """The same layer, row by row: scales as real numbers, everything else whole."""

    def __init__(self, plain: torch.nn.Module) -> None:
        super().__init__()
        weight = cast("torch.Tensor", plain.weight)
        weight = weight.detach().t() if "Conv1D" in type(plain).__name__ else weight.detach()
        self.scales = weight.abs().amax(1) / 127
        self.rows = torch.round(weight / self.scales[:, None]).to(torch.int64)
        self.bias = cast("torch.Tensor | None", plain.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out: list[torch.Tensor] = []
        for row in flat:
            scale = row.abs().max() / 127
            whole = torch.round(row / scale).to(torch.int64)
            out.append((self.rows @ whole).double() * self.scales.double() * scale.double())
        result = torch.stack(out) + (0 if self.bias is None else self.bias.double())
        return result.to(x.dtype).view(*x.shape[:-1], -1)


def with_reference(model: PreTrainedModel) -> PreTrainedModel:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ in ("Linear", "Conv1D") and cast("Any", child).weight.numel() >= 1 << 14:
                setattr(module, name, Reference(child))
    return model


@pytest.mark.parametrize(
    ("name", "changes"), [("Llama", WIDE), ("GPT2", {"n_embd": 128, "hidden_size": 128}), ("Phi", WIDE)]
)
def test_the_logits_are_those_of_the_arithmetic(name: str, changes: dict[str, Any]) -> None:
    model: Any = tiny.make_model(name, **changes)
    reference: Any = with_reference(tiny.make_model(name, **changes))
    ids = torch.tensor([prompt_of(40)])
    with torch.inference_mode():
        plain = model(input_ids=ids).logits
        replaced = quantize(model, tiny.VOCAB)
        assert replaced == sum(isinstance(module, Int8Linear | Part) for module in model.modules()) > 3
        found, expected = model(input_ids=ids).logits, reference(input_ids=ids).logits
    # Rounding in the last bit moves a number to the next step now and then: far less than quantizing moves them.
    error, quantizing = (found - expected).norm().item(), (expected - plain).norm().item()
    assert error < 0.1 * quantizing
    assert quantizing < 0.2 * plain.norm().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_bits_whatever_is_beside_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(200, 300, dtype=dtype), torch.randn(200, dtype=dtype))
    rows = torch.randn(33, 300, dtype=dtype) * torch.logspace(-3, 3, 33, dtype=dtype)[:, None]
    together = layer(rows)
    for count in (1, 2, 7):
        for start in range(0, 33 - count, 5):
            assert torch.equal(layer(rows[start : start + count]), together[start : start + count])
    rows[4, 7] = torch.nan
    spoilt = layer(rows)
    assert spoilt[4].isnan().all()
    assert torch.equal(spoilt[5:], together[5:])


def test_a_model_that_reads_its_weights_is_refused() -> None:
    model = Reader(cast("Any", tiny.make_model("Llama", **WIDE).config))
    with pytest.raises(MeshError, match="cannot be int8: Reader reads the weights") as caught, torch.inference_mode():
        quantize(model, tiny.VOCAB)
    assert caught.value.param == "quantization"
    assert type(model.lm_head) is torch.nn.Linear


def test_a_model_without_large_layers_is_refused(tmp_path: Path) -> None:
    path, _ = tiny.save(tmp_path, "Llama")
    with pytest.raises(MeshError, match="no large linear layers"):
        load(LoadOptions(path, device="cpu", quantization="int8"), lambda _: None)


async def test_answers_through_the_engine(tmp_path: Path) -> None:
    path, _ = tiny.save(tmp_path, "Llama", **WIDE)
    reference = with_reference(tiny.make_model("Llama", **WIDE))
    async with Driver(path, model={"quantization": "int8"}) as driver:
        keys = [await driver.submit(prompt_of(9 * index + 1, index), tokens=20) for index in range(5)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == tiny.generate(reference, prompt_of(9 * index + 1, index), 20)


def test_the_fingerprint_names_the_quantization(tmp_path: Path) -> None:
    path, _ = tiny.save(tmp_path, "Llama", **WIDE)
    plain = load(LoadOptions(path, device="cpu"), lambda _: None)
    whole = load(LoadOptions(path, device="cpu", quantization="int8"), lambda _: None)
    assert whole.fingerprint != plain.fingerprint
    assert whole.parameters == plain.parameters
    assert (whole.dtype, whole.vocab_size) == (torch.float32, tiny.VOCAB)


async def test_steps_of_8_bits_do_not_keep_a_model_from_running_packed(tmp_path: Path) -> None:
    """Attention that adds up in another order moves a number by its last bit, and 8 bits make a whole step of that."""
    wider = {"hidden_size": 512, "intermediate_size": 512, "head_dim": 64}
    path, _ = tiny.save(tmp_path, "Llama", num_attention_heads=8, num_key_value_heads=4, **wider)
    async with Driver(path, model={"quantization": "int8"}) as driver:
        assert driver.engine.models[0].execution == "packed"
