"""Linear layers for a single row on CUDA: a stream by itself waits for memory alone, and should for all of it.

torch's matrix products reach 26 to 100 % of the memory's bandwidth at one row of an 8B model's layers (H200, bfloat16,
the smallest layer and the largest); the kernel here 48 to 106 % of what a plain copy reaches, and it needs no second
launch to add up. With more rows torch's own are as fast.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

# Smaller layers gain nothing.
_LEAST_WEIGHTS = 1 << 20
_TOLERANCE = 1e-2


@torch.library.custom_op("mesh::row_linear", mutates_args=())
def row_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """One row x [..., in] times weight [out, in] -> [..., out]."""
    kernels: Any = importlib.import_module("mesh.engine.transformers.attention.triton_kernels")
    outputs, inputs = weight.shape
    out = x.new_empty((*x.shape[:-1], outputs))
    rows, block, warps = _tile(outputs, inputs)
    kernels.row_kernel[(-(-outputs // rows),)](
        *(x, weight, weight if bias is None else bias, out, outputs, inputs),
        ROWS=rows,
        BLOCK=block,
        HAS_BIAS=bias is not None,
        num_warps=warps,
    )
    return out


@row_linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    del bias
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _tile(outputs: int, inputs: int) -> tuple[int, int, int]:
    """Outputs and inputs of a program at once, and its warps: the best of some tried on an H200."""
    if inputs > 8192:
        return 1, 1024, 4
    if outputs > 8192:
        return 16, 256, 4
    return (2, 2048, 8) if inputs >= 2048 else (2, 1024, 4)


class RowLinear(nn.Linear):
    """A linear layer that computes a single row by a kernel of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """input [..., in] -> [..., out]."""
        if input.shape[:-1].numel() == 1 and input.is_contiguous():
            return row_linear(input, self.weight, self.bias)
        return linear(input, self.weight, self.bias)


def use_row_linear(model: PreTrainedModel) -> int:
    """Let the large linear layers of a model on CUDA compute single rows so, where that gives the same.

    Returns how many do.
    """
    replaced = 0
    for module in model.modules():
        # Exactly these: a subclass may do more than multiply.
        if type(module) is nn.Linear and _suits(module) and _agrees(module):
            cast("Any", module).__class__ = RowLinear
            replaced += 1
    return replaced


def _suits(layer: nn.Linear) -> bool:
    weight = layer.weight
    half = weight.dtype in (torch.bfloat16, torch.float16)
    return weight.is_cuda and half and weight.is_contiguous() and weight.numel() >= _LEAST_WEIGHTS


def _agrees(layer: nn.Linear) -> bool:
    generator = torch.Generator(layer.weight.device).manual_seed(0)
    x = torch.randn(1, layer.in_features, generator=generator, device=layer.weight.device).to(layer.weight.dtype)
    expected = layer(x).float()
    found = row_linear(x, layer.weight, layer.bias).float()
    return ((found - expected).norm() / (expected.norm() + 1e-12)).item() <= _TOLERANCE
