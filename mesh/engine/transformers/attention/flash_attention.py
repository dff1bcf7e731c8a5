"""Attention over pages by FlashAttention's kernels: those in torch itself, or the package flash-attn."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mesh.engine.transformers.attention.interface import PackingError, Variant
from mesh.engine.transformers.attention.kv_cache import LayerCache
from mesh.engine.transformers.attention.paged import Attend, PagedKernels, PagedRows

# The second generation of these kernels takes pages of a multiple of this size.
_PAGE = 256

# (q, keys, values [pages, page size, heads, size], rows, variant) -> [tokens, heads, size]
_Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "_Plan", Variant], torch.Tensor]


class FlashKernels(PagedKernels):
    """FlashAttention's kernels; `make_varlen` and `make_flash_attn` find them."""

    page_size = _PAGE

    def __init__(self, name: str, function: _Function) -> None:
        self.name = name
        self._function = function

    def plan(self, rows: PagedRows) -> Attend:
        """See PagedKernels."""
        return _Plan(rows, self._function)


class _Plan(Attend):
    """Rows as these kernels want them: `cu_queries` [rows + 1], `keys` [rows], `table` [rows, pages], all int32."""

    def __init__(self, rows: PagedRows, function: _Function) -> None:
        self._function = function
        device, pieces = rows.table.device, rows.pieces
        counts = np.array([1] * rows.decoding + [piece.last - piece.first for piece in pieces], dtype=np.int32)
        cu_queries = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
        lines = torch.tensor([piece.slot for piece in pieces], dtype=torch.int64)
        keys = torch.tensor([piece.start + piece.last - piece.first for piece in pieces], dtype=torch.int32)
        self.cu_queries = torch.from_numpy(cu_queries).to(device)
        self.keys = torch.cat([rows.lengths.to(torch.int32), keys.to(device)])
        self.table = rows.table[torch.cat([rows.lines, lines.to(device)])]
        self.most_queries = int(counts.max())
        self.most_keys = rows.most_keys

    def __call__(self, cached: LayerCache, q: torch.Tensor, variant: Variant, out: torch.Tensor) -> None:
        """See Attend."""
        if not variant.plain:
            raise PackingError("FlashAttention's kernels know no soft cap and no sinks")
        shape = cached.shape
        if shape.key_size != shape.value_size:
            raise PackingError("FlashAttention's kernels want keys and values of one size")
        pages = (-1, cached.page_size, shape.heads, shape.key_size)
        out.copy_(self._function(q, cached.keys.view(pages), cached.values.view(pages), self, variant))


def _window(variant: Variant) -> tuple[int, int]:
    """Keys before and after a query that it sees, besides its own; -1 is all."""
    return (-1 if variant.window is None else variant.window - 1, 0)


def make_varlen() -> FlashKernels | str:
    """torch's own kernels, or why there are none."""
    try:
        varlen: Any = importlib.import_module("torch.nn.attention.varlen")
    except ImportError:
        return f"torch {torch.__version__} has no varlen_attn"
    if "block_table" not in inspect.signature(varlen.varlen_attn).parameters:
        return f"varlen_attn of torch {torch.__version__} takes no pages; 2.13 does"

    def call(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: _Plan, variant: Variant) -> torch.Tensor:
        return varlen.varlen_attn(
            *(q, keys, values, plan.cu_queries, None, plan.most_queries, plan.most_keys),
            scale=variant.scaling,
            window_size=_window(variant),
            enable_gqa=True,
            seqused_k=plan.keys,
            block_table=plan.table,
        )

    return FlashKernels("varlen", call)


def make_flash_attn() -> FlashKernels | str:
    """The kernels of the package flash-attn, or why there are none."""
    try:
        package: Any = importlib.import_module("flash_attn")
    except ImportError as error:
        return f"the package flash-attn cannot be imported ({error}): pip install 'inference-mesh[flash]'"

    def call(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: _Plan, variant: Variant) -> torch.Tensor:
        # Lengths are given by the running sum alone; pages beyond them are not read.
        sums = torch.nn.functional.pad(plan.keys.cumsum(0, dtype=torch.int32), (1, 0))
        return package.flash_attn_varlen_func(
            *(q, keys, values, plan.cu_queries, sums, plan.most_queries, plan.most_keys),
            softmax_scale=variant.scaling,
            causal=True,
            window_size=_window(variant),
            block_table=plan.table,
        )

    return FlashKernels("flash_attn", call)
