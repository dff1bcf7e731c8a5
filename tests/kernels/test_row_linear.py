"""The kernel for single rows against a product in float64."""

from __future__ import annotations

import pytest
import torch

from mesh.engine.transformers.layers.row_linear import row_linear
from tests.kernels.test_triton_attention import DEVICE, HALF


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 3), (64, 64), (33, 130), (300, 2100), (40, 8200)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_row_linear(outputs: int, inputs: int, bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(outputs)
    x, weight, add = (
        torch.randn(shape, generator=generator).to(DEVICE, dtype)
        for shape in ((1, 1, inputs), (outputs, inputs), (outputs,))
    )
    found = row_linear(x, weight, add if bias else None)
    expected = x.double() @ weight.double().T + (add.double() if bias else 0.0)
    assert found.shape == (1, 1, outputs)
    limit = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=limit * float(expected.abs().max()))
