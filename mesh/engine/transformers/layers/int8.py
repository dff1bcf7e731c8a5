"""Linear layers in 8 bits, for CPUs: weights are quantized when the model is loaded, activations while it runs.

A weight row (an output) has a scale of its own, and so has each row of activations (a token): an answer does not depend
on the rows beside it, as it would with torch's dynamic quantization, which takes one scale for the whole batch. The
products are sums of whole numbers, the same in any order.

The operators are private to torch, and older CPUs have instructions that saturate in between: so the kernel is
tried on the largest numbers first, then each layer against its plain self.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.layers.linear import SealedLinear, linear_layers, weights_unread
from mesh.engine.transformers.layers.siblings import Site, sites
from mesh.errors import invalid

_LARGEST = 127
# Of random rows; quantizing both sides to 8 bits makes about 0.01.
_TOLERANCE = 0.05
_CHECK_ROWS = 4
_ARGUMENTS: Final[tuple[object, ...]] = (1.0, 0, torch.float32, "none", [], "")


class Int8Linear(SealedLinear):
    """A linear layer whose products are of 8-bit numbers; takes and gives plain tensors."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        quantized, scales = quantize_rows(weight)
        self._product = _Product(quantized)
        self._scales = scales.flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        quantized, scales = quantize_rows(x.reshape(-1, self.in_features))
        out = self._product(quantized, self._scales).mul_(scales)
        if self.bias is not None:
            out.add_(self.bias)
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """rows [n, size] as whole numbers from -127 to 127 (int8), and the scale of each row [n, 1] (float32).

    A row that is not finite gets a scale that is not, so that what comes of it shows.
    """
    rows = rows.float()
    scales = rows.abs().amax(dim=1, keepdim=True).clamp_min_(1e-30).div_(_LARGEST)
    return (rows / scales).round_().to(torch.int8), scales


class _Product:
    """Products with a matrix of 8-bit numbers [out, in]."""

    def __init__(self, matrix: torch.Tensor) -> None:
        operators: Any = torch.ops.onednn
        self._packed: torch.Tensor = operators.qlinear_prepack(matrix.contiguous(), None)
        self._zeros = torch.zeros(matrix.shape[0], dtype=torch.int64)
        self._run: Callable[..., torch.Tensor] = operators.qlinear_pointwise

    def __call__(self, rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """rows [n, in] (int8) and a scale for each output -> [n, out] (float32)."""
        return self._run(rows, 1.0, 0, self._packed, scales, self._zeros, None, *_ARGUMENTS)


def quantize(model: PreTrainedModel, vocab_size: int) -> int:
    """Replace the linear layers of a model on a CPU; returns how many were replaced.

    Raises invalid_request where this torch, CPU or model cannot be served so.
    """
    if not _kernel_is_exact():
        raise invalid("quantization", "'quantization' cannot be int8: this CPU or torch has no exact product of int8")
    places = linear_layers(model)
    if not places or not weights_unread(model, places, vocab_size):
        reason = "reads the weights of its linear layers" if places else "has no large linear layers"
        raise invalid("quantization", f"'quantization' cannot be int8: {type(model).__name__} {reason}")
    for site in sites(model, places, vocab_size):
        site.replace(_checked(site))
    return len(places)


def _kernel_is_exact() -> bool:
    """Whether the sums stay exact with the largest numbers, for one row and for several."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (96, 512), generator=generator) * 2 - 1
    signs[0] = 1
    matrix = signs * _LARGEST
    expected = (matrix[:5] @ matrix.T).float()
    try:
        product = _Product(matrix.to(torch.int8))
        ones = torch.ones(len(matrix))
        found = [product(matrix[:rows].to(torch.int8), ones) for rows in (1, 5)]
    except (RuntimeError, AttributeError):
        return False
    return all(torch.equal(rows, expected[: len(rows)]) for rows in found)


def _checked(site: Site) -> Int8Linear:
    replacement = Int8Linear(site.weight(), site.bias())
    difference = site.relative_error(replacement, _CHECK_ROWS)
    if not difference <= _TOLERANCE:
        raise invalid("quantization", f"'quantization' cannot be int8: '{site.name}' differs by {difference:.2g}")
    return replacement
