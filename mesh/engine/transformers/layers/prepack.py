"""Linear layers in oneDNN's own weight layout, for CPUs.

Measured at 4 to 512 rows on an AVX-512 machine by AMD, where torch's other library does not use AVX-512: 2.2 to 2.9
times as fast; at one row the same. A row's result does not depend on the number of rows beside it, except that one row
alone is computed by another kernel.

On Intel's processors the other library reads the plain layout as fast as the memory gives it, and oneDNN its own a
quarter slower; from some rows on it is the other way round. There a float32 layer keeps both where memory allows.

The operators are private to torch, so each layer is checked against its plain self before the plain weight is
dropped, and whatever fails stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from mesh.engine.transformers.layers.linear import SealedLinear, linear_layers, weights_unread
from mesh.engine.transformers.layers.siblings import Part, Site, sites
from mesh.engine.transformers.memory import free_memory

log = logging.getLogger(__name__)

_CHECK_ROWS = 4
_FEW_ROWS = 3
# Of the free memory, what the plain weights may take beside the packed ones.
_PLAIN_SHARE = 0.25
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class PackedLinear(SealedLinear):
    """A linear layer in oneDNN's layout; takes and gives plain tensors.

    With `keeps_plain` it has the plain weight as well, and computes few rows with that one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, keeps_plain: bool = False) -> None:
        super().__init__(weight, bias)
        # In memory of its own, which may lie on large pages: a loaded weight lies in its file.
        self._plain = weight.clone() if keeps_plain else None
        operators: Any = torch.ops.mkldnn
        self._packed: torch.Tensor = operators._reorder_linear_weight(weight.contiguous())
        self._run: Callable[..., torch.Tensor] = operators._linear_pointwise

    @property
    def keeps_plain(self) -> bool:
        """Whether few rows are computed with the plain weight."""
        return self._plain is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        if self._plain is not None and x.shape[:-1].numel() <= _FEW_ROWS:
            return linear(x, self._plain, self.bias)
        return self._run(x, self._packed, self.bias, "none", [], "")


def prepack(model: PreTrainedModel, vocab_size: int) -> int:
    """Replace the linear layers of a model on a CPU where that is exact and safe; returns how many were replaced."""
    if not _possible(model):
        return 0
    places = linear_layers(model)
    if not places or not weights_unread(model, places, vocab_size):
        return 0
    packed = 0
    there = sites(model, places, vocab_size)
    keeps_plain = _keeps_plain(model, there)
    for site in there:
        try:
            site.replace(_checked(site, keeps_plain=keeps_plain))
        except Exception as error:
            log.info("linear layers stay as they are: %s", error)
            break
        packed += len(site.places)
    return packed


def _possible(model: PreTrainedModel) -> bool:
    dtype = model.dtype
    if model.device.type != "cpu" or model.config.is_encoder_decoder or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(cast("Any", torch.ops.mkldnn)._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def computes_a_row_plainly(model: nn.Module) -> bool:
    """Whether a single row goes through plain weights though several go through packed ones."""
    wholes = (module.whole if isinstance(module, Part) else module for module in model.modules())
    return any(isinstance(module, PackedLinear) and module.keeps_plain for module in wholes)


def _keeps_plain(model: PreTrainedModel, there: Sequence[Site]) -> bool:
    size = sum(site.size for site in there)
    return model.dtype == torch.float32 and _by_intel() and size <= _PLAIN_SHARE * free_memory(model.device)


def _by_intel() -> bool:
    """By the processor's name and not by a measurement, which could come out differently on two equal workers."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _checked(site: Site, *, keeps_plain: bool) -> PackedLinear:
    weight = site.weight()
    replacement = PackedLinear(weight, site.bias(), keeps_plain=keeps_plain)
    difference = site.relative_error(replacement, _CHECK_ROWS)
    if not difference <= _TOLERANCE[weight.dtype]:
        raise ArithmeticError(f"a packed layer differs by {difference:.2g}")
    return replacement
