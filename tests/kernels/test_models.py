"""Whole models over the kernels, by the test that every model has to pass when it is loaded."""

from __future__ import annotations

import pytest
import torch

from mesh.engine.transformers.attention.triton_attention import TritonKernels
from mesh.engine.transformers.runners.selftest import check_packed
from tests.kernels.test_triton_attention import DEVICE
from tests.model import tiny


# Plain, a window, soft caps, sinks, values narrower than keys.
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2", "GptOss", "DeepseekV3"])
def test_model(name: str) -> None:
    with torch.device(DEVICE):
        model = tiny.make_model(name)
    with torch.inference_mode():
        verdict = check_packed(model, tiny.VOCAB, 256, 16, TritonKernels())
    assert verdict.reason is None
    assert 0 < verdict.difference < 1e-5
