"""Linear layers in oneDNN's own weight layout, for CPUs.

Measured at 4 to 512 rows on an AVX-512 machine by AMD, where torch's other library does not use AVX-512: 2.2 to 2.9
times as fast; at one row the same. A row's result does not depend on the number of rows beside it, except that one row
alone is computed by another kernel.

The operators are private to torch, so each layer is checked against its plain self before the plain weight is
dropped, and whatever fails stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

log = logging.getLogger(__name__)

# Smaller layers gain nothing.
_LEAST_WEIGHTS = 1 << 14
_CHECK_ROWS = 4
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class _Sealed(nn.Module):
    """A linear layer without its weight at hand: code that reads shape or type is served, code that computes fails."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._dtype = weight.dtype

    @property
    def weight(self) -> torch.Tensor:
        """The weight's shape and type, without its values."""
        return torch.empty(self.out_features, self.in_features, dtype=self._dtype, device="meta")


class _Trial(_Sealed):
    """Computes with the plain weight, to see whether the model's code can do without looking at it."""

    def __init__(self, plain: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._plain = [plain]  # in a list: not a submodule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the plain layer."""
        return self._plain[0](x)


class PackedLinear(_Sealed):
    """A linear layer in oneDNN's layout; takes and gives plain tensors."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        operators: Any = torch.ops.mkldnn
        self._packed: torch.Tensor = operators._reorder_linear_weight(weight.contiguous())
        self._run: Callable[..., torch.Tensor] = operators._linear_pointwise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        return self._run(x, self._packed, self.bias, "none", [], "")


@dataclass(slots=True)
class _Place:
    """Where a linear layer sits, and its weight [out, in]."""

    parent: nn.Module
    name: str
    plain: nn.Module
    weight: torch.Tensor
    bias: torch.Tensor | None

    def put(self, module: nn.Module) -> None:
        setattr(self.parent, self.name, module)


def prepack(model: PreTrainedModel, vocab_size: int) -> int:
    """Replace the linear layers of a model on a CPU where that is exact and safe; returns how many were replaced."""
    if not _possible(model):
        return 0
    places = list(_linear_layers(model))
    if not places or not _weights_unread(model, places, vocab_size):
        return 0
    packed = 0
    for place in places:
        try:
            replacement = _checked(place)
        except Exception as error:
            log.info("linear layers stay as they are: %s", error)
            break
        place.put(replacement)
        # The plain weight goes now, not at the end: there need not be room for all of them twice.
        place.plain, place.weight = replacement, replacement.weight
        packed += 1
    return packed


def _possible(model: PreTrainedModel) -> bool:
    dtype = model.dtype
    if model.device.type != "cpu" or model.config.is_encoder_decoder or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(cast("Any", torch.ops.mkldnn)._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _linear_layers(model: PreTrainedModel) -> Generator[_Place]:
    dtype = model.dtype
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # Exactly these: a subclass may do more than multiply.
            if type(child) is nn.Linear:
                weight = child.weight.detach()
            elif type(child) is Conv1D:
                weight = child.weight.detach().t()
            else:
                continue
            if weight.numel() >= _LEAST_WEIGHTS and weight.dtype == dtype:
                bias = cast("torch.Tensor | None", child.bias)
                yield _Place(parent, name, child, weight, None if bias is None else bias.detach())


def _weights_unread(model: PreTrainedModel, places: list[_Place], vocab_size: int) -> bool:
    """Whether the model's own code leaves the weights of its linear layers alone."""
    ids = torch.tensor([[(17 + 7919 * place) % vocab_size for place in range(5)]])
    run = cast("Callable[..., Any]", model)
    expected: torch.Tensor = run(input_ids=ids, use_cache=False).logits
    try:
        for place in places:
            place.put(_Trial(place.plain, place.weight, place.bias))
        found: torch.Tensor = run(input_ids=ids, use_cache=False).logits
        return torch.equal(found, expected)
    except Exception as error:
        log.info("linear layers stay as they are, because the model reads their weights: %s", error)
        return False
    finally:
        for place in places:
            place.put(place.plain)


def _checked(place: _Place) -> PackedLinear:
    replacement = PackedLinear(place.weight, place.bias)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, _CHECK_ROWS, replacement.in_features, generator=generator).to(place.weight.dtype)
    expected, found = place.plain(x).float(), replacement(x).float()
    difference = ((found - expected).norm() / (expected.norm() + 1e-12)).item()
    if not difference <= _TOLERANCE[place.weight.dtype]:
        raise ArithmeticError(f"a packed layer differs by {difference:.2g}")
    return replacement
