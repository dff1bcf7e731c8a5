"""The attention kernel in C++: what torch's own attention over gathered pages gives, whoever is beside a row."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.attention.cpp_attention import CppKernels, SingleTokens
from mesh.engine.transformers.attention.interface import PackingError, Variant
from mesh.engine.transformers.attention.kv_cache import KvCache, LayerCache
from mesh.engine.transformers.attention.sdpa import SdpaStep
from mesh.errors import MeshError
from tests.model import tiny
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
    # torch's compiler warns of torch's own code when it is first imported.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def kernels() -> CppKernels:
    return CppKernels()


@dataclass(frozen=True)
class Case:
    """A layer's shape, and what it asks for."""

    heads: int = 6
    kv_heads: int = 2
    key_size: int = 64
    value_size: int = 64
    page_size: int = 16
    dtype: torch.dtype = torch.float32
    window: int | None = None
    softcap: float | None = None
    scaling: float | None = None
    sinks: bool = False

    def variant(self) -> Variant:
        sinks = torch.linspace(-2, 2, self.heads) if self.sinks else None
        return Variant(self.scaling, self.window, self.softcap, sinks)


class Rows:
    """Rows of these lengths, by falling length, with keys and values in scattered pages of a layer."""

    def __init__(self, case: Case, lengths: Sequence[int]) -> None:
        draw = torch.Generator().manual_seed(len(lengths))
        self.case, self.lengths = case, np.array(sorted(lengths, reverse=True), dtype=np.int64)
        width = -(-max(lengths) // case.page_size)
        pages = torch.randperm(len(lengths) * width, generator=draw) + 1
        self.tables = pages.view(len(lengths), width).numpy()
        self.cache = KvCache(len(lengths) * width + 1, case.page_size, case.dtype, CPU)
        shape = (1, case.kv_heads)
        self.layer: LayerCache = self.cache.layer(
            0, torch.empty(*shape, case.key_size), torch.empty(*shape, case.value_size)
        )
        for part in (self.layer.keys, self.layer.values):
            part.copy_(torch.randn(part.shape, generator=draw))
        # As the model leaves it: by heads, then tokens.
        query = torch.randn(case.heads, len(lengths), case.key_size, generator=draw) * 2
        self.query = query.to(case.dtype).transpose(0, 1)

    def by_torch(self) -> torch.Tensor:
        slots = torch.zeros(len(self.lengths), dtype=torch.int64)
        step = SdpaStep(self.cache, slots, self.case.dtype, self.lengths, self.tables, [])
        out = self._empty(len(self.lengths))
        step.attend(self.layer, self.query, out, out, self.case.variant(), out)
        return out

    def by(self, kernels: CppKernels, row: int | None = None) -> torch.Tensor:
        """All rows, or one of them alone."""
        which = slice(None) if row is None else slice(row, row + 1)
        tokens = SingleTokens(self.tables[which], self.lengths[which])
        query = self.query[which]
        out = self._empty(len(query))
        kernels.attend(self.layer, tokens, query, self.case.variant(), out)
        return out

    def _empty(self, rows: int) -> torch.Tensor:
        return torch.full((rows, self.case.heads, self.case.value_size), float("nan"), dtype=self.case.dtype)


LENGTHS = (1, 2, 15, 16, 17, 40, 255, 256, 257, 300, 800)
CASES = (
    Case(),
    Case(heads=4, kv_heads=4, key_size=128, value_size=128),
    Case(heads=7, kv_heads=1, key_size=32, value_size=80, page_size=5),
    Case(heads=5, kv_heads=1, window=20),
    Case(window=256, page_size=1, scaling=0.3),
    Case(softcap=3.0, sinks=True),
    Case(heads=16, window=300, sinks=True, scaling=0.02),
    Case(dtype=torch.bfloat16),
    Case(dtype=torch.bfloat16, softcap=5.0, window=33),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_attention(kernels: CppKernels, case: Case) -> None:
    rows = Rows(case, LENGTHS)
    tolerance = 2e-2 if case.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(rows.by(kernels), rows.by_torch(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_is_the_same_to_the_bit_beside_others_and_alone(kernels: CppKernels, case: Case) -> None:
    rows = Rows(case, LENGTHS)
    beside = rows.by(kernels)
    assert all(torch.equal(rows.by(kernels, row)[0], beside[row]) for row in range(len(LENGTHS)))


@pytest.mark.parametrize("part", ["keys", "values"])
def test_what_is_not_a_number_spoils_its_own_row_only(kernels: CppKernels, part: str) -> None:
    rows = Rows(Case(), LENGTHS)
    expected = rows.by(kernels)
    getattr(rows.layer, part)[int(rows.tables[3, 0]) * 16, 0] = float("nan")
    found = rows.by(kernels)
    assert found[3, :3].isnan().all()
    assert torch.equal(found[3, 3:], expected[3, 3:])
    assert torch.equal(found[:3], expected[:3])
    assert torch.equal(found[4:], expected[4:])


@pytest.mark.parametrize("case", [Case(dtype=torch.float64), Case(key_size=24), Case(value_size=24)], ids=str)
def test_what_it_cannot_do_it_refuses(kernels: CppKernels, case: Case) -> None:
    with pytest.raises(PackingError, match="float32, bfloat16"):
        Rows(replace(case, page_size=16), [3]).by(kernels)


async def test_a_model_is_served_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, model = tiny.save(tmp_path, "Llama", head_dim=16)
    caplog.set_level("INFO")
    async with Driver(path, attention="cpp", speculate_tokens=2) as driver:
        assert "attention" in caplog.messages
        keys = [await driver.submit(prompt_of(length), tokens=12) for length in (3, 17, 40)]
        for key, length in zip(keys, (3, 17, 40), strict=True):
            assert (await driver.answer(key)).ids == tiny.generate(model, prompt_of(length), 12)


async def test_a_model_of_other_sizes_is_refused_by_name(llama: Saved) -> None:
    driver = Driver(llama[0], attention="cpp")
    with pytest.raises(MeshError, match="'cpp', which cannot run LlamaForCausalLM: the kernel in C"):
        await driver.engine.start(lambda step: None)
    await driver.engine.stop()
