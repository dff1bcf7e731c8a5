"""What needs a CUDA device is refused by name where there is none, before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.attention.kernels import CHOICES, find_kernels
from mesh.errors import MeshError
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "options",
    [{"attention": "triton"}, {"attention": "varlen"}, {"attention": "flash_attn"}],
    ids=str,
)
async def test_refused_on_a_cpu(options: dict[str, Any]) -> None:
    driver = Driver("/no/such/folder", model={"device": "cpu"}, **options)
    with pytest.raises(MeshError, match="CUDA") as caught:
        await driver.engine.start(lambda step: None)
    await driver.engine.stop()
    assert caught.value.param == next(iter(options))


def test_unknown_kernels() -> None:
    with pytest.raises(MeshError, match="must be auto, triton") as caught:
        find_kernels("flash", CPU)
    assert caught.value.param == "attention"


def test_a_model_that_is_spread_has_torchs_attention() -> None:
    cuda = torch.device("cuda")
    assert find_kernels("auto", cuda, spread=True) == [None]
    for name in set(CHOICES) - {"auto", "sdpa"}:
        with pytest.raises(MeshError, match="spread over devices"):
            find_kernels(name, cuda, spread=True)


async def test_sdpa_may_be_asked_for_anywhere(llama: Saved) -> None:
    async with Driver(llama[0], attention="sdpa") as driver:
        assert len((await driver.ask(prompt_of(5), tokens=3)).ids) == 3
