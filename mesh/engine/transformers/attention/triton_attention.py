"""Attention over pages in Triton, which comes with every CUDA build of torch.

One kernel for rows with one new token, which splits a row's keys over several programs so that few rows fill the
device too, and one for pieces of prompts. Both read keys and values where they lie, in pages of any size, and know
all that models ask for: heads that share keys, windows, soft caps, sinks, values narrower than keys. What differs from
step to step lies in tensors on the device, so that a CUDA graph replays a step for other rows.

The algorithm is that of FlashAttention (Dao et al., 2022) and Flash-Decoding (Dao et al., 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from mesh.engine.transformers.attention import triton_kernels
from mesh.engine.transformers.attention.interface import PackingError, Piece, Variant
from mesh.engine.transformers.attention.kv_cache import LayerCache, LayerShape
from mesh.engine.transformers.attention.paged import Attend, PagedKernels, PagedRows, split

# Keys per turn of a kernel's loop, and queries per program of the prompts' kernel.
_DECODE_KEYS = 64
_PIECE_KEYS = 64
_PIECE_QUERIES = 64
# Programs that keep a large device busy: the keys of a row are split until there are so many.
_PROGRAMS = 264
_MOST_SPLITS = 32
# What a program holds of queries and results must fit into registers.
_LARGEST_HEAD = 256

# Triton's launchers have no types.
_kernels = cast("Any", triton_kernels)


class TritonKernels(PagedKernels):
    """Our kernels."""

    name = "triton"

    def plan(self, rows: PagedRows) -> Attend:
        """See PagedKernels."""
        return _Plan(rows)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The pieces cut into blocks of queries. [6 rows of int64]: see `piece_kernel`."""

    count: int
    block_piece: torch.Tensor
    block_first: torch.Tensor
    piece_first: torch.Tensor
    piece_count: torch.Tensor
    piece_start: torch.Tensor
    piece_line: torch.Tensor


def _cut(pieces: Sequence[Piece], decoding: int, device: torch.device) -> _Blocks:
    """`piece_first` counts from the first token after the decoding rows."""
    counts = np.array([piece.last - piece.first for piece in pieces], dtype=np.int64)
    blocks = -(-counts // _PIECE_QUERIES)
    block_piece = np.repeat(np.arange(len(pieces)), blocks)
    block_first = (np.arange(len(block_piece)) - np.repeat(np.cumsum(blocks) - blocks, blocks)) * _PIECE_QUERIES
    facts = [[piece.first - decoding, piece.start, piece.slot] for piece in pieces]
    firsts, starts, lines = np.array(facts, dtype=np.int64).T
    parts = [block_piece, block_first, firsts, counts, starts, lines]
    whole = torch.from_numpy(np.concatenate(parts)).to(device, non_blocking=True)
    return _Blocks(len(block_piece), *split(whole, [len(part) for part in parts]))


class _Plan(Attend):
    def __init__(self, rows: PagedRows) -> None:
        self._rows = rows
        self._blocks = _cut(rows.pieces, rows.decoding, rows.table.device) if rows.pieces else None

    def store(self, cached: LayerCache, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
        """See Attend. One launch for both."""
        if k.stride(2) != 1 or v.stride(2) != 1:
            return False
        shape = cached.shape
        _kernels.store_kernel[(k.shape[0],)](
            *(k, v, cached.keys, cached.values, slots, *k.stride()[:2], *v.stride()[:2]),
            HEADS=shape.heads,
            SIZE=shape.key_size,
            V_SIZE=shape.value_size,
            BLOCK=_power(shape.heads * max(shape.key_size, shape.value_size)),
            num_warps=4,
        )
        return True

    def __call__(self, cached: LayerCache, q: torch.Tensor, variant: Variant, out: torch.Tensor) -> None:
        """See Attend."""
        if max(cached.shape.key_size, cached.shape.value_size) > _LARGEST_HEAD:
            raise PackingError(f"heads of more than {_LARGEST_HEAD} numbers do not fit into the Triton kernels")
        if q.stride(2) != 1:
            q = q.contiguous()
        decoding = self._rows.decoding
        if decoding:
            self._decode(cached, q[:decoding], variant, out[:decoding])
        if self._blocks is not None:
            self._prefill(cached, self._blocks, q[decoding:], variant, out[decoding:])

    def _decode(self, cached: LayerCache, q: torch.Tensor, variant: Variant, out: torch.Tensor) -> None:
        rows, heads, _ = q.shape
        shape = cached.shape
        group = heads // shape.heads
        splits = splits_for(rows, shape.heads)
        parts, most, total = out, out, out
        if splits > 1:
            whole = q.new_empty(rows * heads * splits * (shape.value_size + 2), dtype=torch.float32)
            sizes = [rows * heads * splits * shape.value_size, rows * heads * splits, rows * heads * splits]
            parts, most, total = split(whole, sizes)
        sinks = out if variant.sinks is None else variant.sinks
        _kernels.decode_kernel[(rows, shape.heads, splits)](
            *(q, cached.keys, cached.values, out, parts, most, total, sinks),
            *(self._rows.table, self._rows.lines, self._rows.lengths),
            *_numbers(q, variant),
            *_strides(q, cached, self._rows.table),
            HEADS=heads,
            GROUP=group,
            GROUP_PAD=max(16, _power(group)),
            PAGE=cached.page_size,
            BLOCK=_DECODE_KEYS,
            SPLITS=splits,
            **_kinds(shape, variant),
            num_warps=4,
        )
        if splits > 1:
            _kernels.join_kernel[(rows, heads)](
                *(out, parts, most, total, sinks),
                HEADS=heads,
                V_SIZE=shape.value_size,
                V_PAD=_power(shape.value_size),
                SPLITS=splits,
                HAS_SINKS=variant.sinks is not None,
                num_warps=2,
            )

    def _prefill(
        self, cached: LayerCache, blocks: _Blocks, q: torch.Tensor, variant: Variant, out: torch.Tensor
    ) -> None:
        heads = q.shape[1]
        shape = cached.shape
        _kernels.piece_kernel[(blocks.count, heads)](
            *(q, cached.keys, cached.values, out, out if variant.sinks is None else variant.sinks, self._rows.table),
            *(blocks.block_piece, blocks.block_first),
            *(blocks.piece_first, blocks.piece_count, blocks.piece_start, blocks.piece_line),
            *_numbers(q, variant),
            *_strides(q, cached, self._rows.table),
            HEADS=heads,
            GROUP=heads // shape.heads,
            PAGE=cached.page_size,
            QUERIES=_PIECE_QUERIES,
            BLOCK=_PIECE_KEYS,
            **_kinds(shape, variant),
            num_warps=4,
        )


def splits_for(rows: int, kv_heads: int) -> int:
    """Over how many programs the keys of a row are spread, a power of two."""
    splits = 1
    while splits < _MOST_SPLITS and rows * kv_heads * splits < _PROGRAMS:
        splits *= 2
    return splits


def _power(size: int) -> int:
    """The power of two from 16 on that holds `size`: a tile's side."""
    return max(16, 1 << (size - 1).bit_length())


def _numbers(q: torch.Tensor, variant: Variant) -> tuple[float, float, int]:
    scale = q.shape[2] ** -0.5 if variant.scaling is None else variant.scaling
    return scale, variant.softcap or 0.0, variant.window or 0


def _strides(q: torch.Tensor, cached: LayerCache, table: torch.Tensor) -> tuple[int, ...]:
    tensors = (q, cached.keys, cached.values)
    return (*(stride for tensor in tensors for stride in tensor.stride()[:2]), table.stride(0))


def _kinds(shape: LayerShape, variant: Variant) -> dict[str, Any]:
    return cast(
        "dict[str, Any]",
        {
            "SIZE": shape.key_size,
            "SIZE_PAD": _power(shape.key_size),
            "V_SIZE": shape.value_size,
            "V_PAD": _power(shape.value_size),
            "HAS_WINDOW": variant.window is not None,
            "HAS_CAP": variant.softcap is not None,
            "HAS_SINKS": variant.sinks is not None,
        },
    )
