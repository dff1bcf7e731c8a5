"""Linear layers in oneDNN's own weight layout, for CPUs.

Measured at 4 to 512 rows on an AVX-512 machine by AMD, where torch's other library does not use AVX-512: 2.2 to 2.9
times as fast; at one row the same. A row's result does not depend on the number of rows beside it, except that one row
alone is computed by another kernel.

The operators are private to torch, so each layer is checked against its plain self before the plain weight is
dropped, and whatever fails stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.layers.linear import Place, SealedLinear, linear_layers, relative_error, weights_unread

log = logging.getLogger(__name__)

_CHECK_ROWS = 4
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class PackedLinear(SealedLinear):
    """A linear layer in oneDNN's layout; takes and gives plain tensors."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        operators: Any = torch.ops.mkldnn
        self._packed: torch.Tensor = operators._reorder_linear_weight(weight.contiguous())
        self._run: Callable[..., torch.Tensor] = operators._linear_pointwise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        return self._run(x, self._packed, self.bias, "none", [], "")


def prepack(model: PreTrainedModel, vocab_size: int) -> int:
    """Replace the linear layers of a model on a CPU where that is exact and safe; returns how many were replaced."""
    if not _possible(model):
        return 0
    places = linear_layers(model)
    if not places or not weights_unread(model, places, vocab_size):
        return 0
    packed = 0
    for place in places:
        try:
            place.replace(_checked(place))
        except Exception as error:
            log.info("linear layers stay as they are: %s", error)
            break
        packed += 1
    return packed


def _possible(model: PreTrainedModel) -> bool:
    dtype = model.dtype
    if model.device.type != "cpu" or model.config.is_encoder_decoder or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(cast("Any", torch.ops.mkldnn)._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _checked(place: Place) -> PackedLinear:
    replacement = PackedLinear(place.weight, place.bias)
    difference = relative_error(place, replacement, _CHECK_ROWS)
    if not difference <= _TOLERANCE[place.weight.dtype]:
        raise ArithmeticError(f"a packed layer differs by {difference:.2g}")
    return replacement
