"""The packed step over torch's own attention: on CPUs, and as the reference everywhere.

Decoding rows of similar length attend together over their gathered pages, or each over its pages where they lie, by
a kernel that reads them there; each piece of a prompt attends by itself. Pages that follow one another, such as those
of a single stream, are never copied.
What depends on the step alone (page lists, masks) is made once per step and window, not per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from mesh.engine.transformers.attention.cpp_attention import CppKernels, SingleTokens
from mesh.engine.transformers.attention.interface import IntArray, PackedStep, Piece, Variant
from mesh.engine.transformers.attention.kv_cache import KvCache, LayerCache, index_of

# Largest score matrix, in elements, of the attention that torch has no kernel for.
_MOST_SCORES = 1 << 24
# Decoding rows attend together when they differ by at most this many pages, or by a third.
_SIMILAR_PAGES = 8


@dataclass(frozen=True, slots=True)
class Group:
    """Decoding rows `first` to `last` (exclusive): their pages [rows * width], and a mask [rows, 1, 1, tokens]."""

    first: int
    last: int
    pages: torch.Tensor | slice
    mask: torch.Tensor | None


class SdpaStep(PackedStep):
    """A step whose pages are gathered, those of decoding rows only where there are no `kernels` for them.

    `lengths` [decoding] counts the tokens of each decoding row with the new one, `tables` [decoding, pages] names their
    pages, 0 where there is none.
    """

    def __init__(
        self,
        cache: KvCache,
        slots: torch.Tensor,
        dtype: torch.dtype,
        lengths: IntArray,
        tables: IntArray,
        pieces: Sequence[Piece],
        kernels: CppKernels | None = None,
    ) -> None:
        super().__init__(cache, slots)
        self._kernels = kernels
        self.dtype = dtype
        self.lengths = lengths
        self.tables = tables
        self.pieces = pieces
        self._groups: dict[int | None, list[Group]] = {}
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}
        self._pages: dict[int, torch.Tensor | slice] = {}

    def attend(
        self, cached: LayerCache, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, variant: Variant, out: torch.Tensor
    ) -> None:
        """See PackedStep."""
        self._attend_decoding(cached, q[: self.decoding], variant, out[: self.decoding])
        for index, piece in enumerate(self.pieces):
            span = slice(piece.first, piece.last)
            out[span] = _prefill(self, cached, index, q[span], k[span], v[span], variant)

    def _attend_decoding(self, cached: LayerCache, q: torch.Tensor, variant: Variant, out: torch.Tensor) -> None:
        if self.decoding and self._kernels is not None:
            self._kernels.attend(cached, SingleTokens(self.tables, self.lengths), q, variant, out)
            return
        for group in self.groups(variant.window):
            out[group.first : group.last] = _decode(self, cached, group, q[group.first : group.last], variant)

    @property
    def decoding(self) -> int:
        """Rows with a single token."""
        return len(self.lengths)

    def groups(self, window: int | None) -> list[Group]:
        """The decoding rows by similar length, and the pages of each that the window shows."""
        groups = self._groups.get(window)
        if groups is None:
            groups = self._groups[window] = self._make_groups(window)
        return groups

    def _make_groups(self, window: int | None) -> list[Group]:
        size = self.cache.page_size
        shown = self.lengths if window is None else np.minimum(self.lengths, window)
        first_pages = (self.lengths - shown) // size
        counts = (self.lengths - 1) // size - first_pages + 1
        groups: list[Group] = []
        begin, total = 0, self.decoding
        while begin < total:
            width = int(counts[begin])
            shortest = width - max(_SIMILAR_PAGES, width // 3)
            end = begin + 1
            while end < total and shortest <= counts[end] <= width + _SIMILAR_PAGES:
                end += 1
            groups.append(self._group(begin, end, first_pages, int(counts[begin:end].max()), window))
            begin = end
        return groups

    def _group(self, begin: int, end: int, first_pages: IntArray, width: int, window: int | None) -> Group:
        size = self.cache.page_size
        firsts = first_pages[begin:end, None]
        columns = firsts + np.arange(width)
        # A window moves on while a row's last pages are not there yet: stay within the table, the mask hides the rest.
        columns = np.minimum(columns, self.tables.shape[1] - 1)
        pages = np.take_along_axis(self.tables[begin:end], columns, axis=1)
        lengths = self.lengths[begin:end, None]
        positions = firsts * size + np.arange(width * size)
        hidden = positions >= lengths
        if window is not None:
            hidden |= positions < lengths - window
        mask = None
        if hidden.any():
            mask = self._additive(torch.from_numpy(hidden))[:, None, None, :]
        return Group(begin, end, index_of(pages.reshape(-1), self.slots.device), mask)

    def _additive(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.to(self.slots.device)
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=hidden.device)
        return mask.masked_fill_(hidden, float("-inf"))

    def piece_pages(self, index: int) -> torch.Tensor | slice:
        """The pages of a piece's row."""
        pages = self._pages.get(index)
        if pages is None:
            pages = self._pages[index] = index_of(self.pieces[index].pages, self.slots.device)
        return pages

    def piece_mask(self, index: int, keys: int, window: int | None) -> torch.Tensor:
        """Which of a row's first `keys` tokens each token of a piece sees: additive [tokens, keys]."""
        mask = self._masks.get((index, window))
        if mask is None:
            piece = self.pieces[index]
            queries = torch.arange(piece.start, piece.start + piece.last - piece.first)[:, None]
            positions = torch.arange(keys)[None, :]
            hidden = positions > queries
            if window is not None:
                hidden |= positions <= queries - window
            if piece.runs is not None:
                runs = torch.from_numpy(piece.runs)
                hidden &= (runs[None, :] < 0) | (runs[None, :] != runs[piece.start :, None])
            mask = self._masks[index, window] = self._additive(hidden)
        return mask


def _decode(step: SdpaStep, cached: LayerCache, group: Group, q: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Attention of one token per row, q [rows, heads, size] -> [rows, heads, value size].

    The heads that share a KV head are taken for queries of that head, so that no key is repeated.
    """
    rows, heads, size = q.shape
    keys, values = step.cache.read(cached, group.pages, rows)
    kv_heads = keys.shape[2]
    q = q.reshape(rows, kv_heads, heads // kv_heads, size)
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    if variant.plain:
        out = scaled_dot_product_attention(q, keys, values, attn_mask=group.mask, scale=variant.scaling)
    else:
        mask = None if group.mask is None else group.mask[:, :, None]
        out = _scores_attention(q[:, :, :, None], keys, values, mask, variant)[:, :, :, 0]
    return out.reshape(rows, heads, -1)


def _prefill(
    step: SdpaStep,
    cached: LayerCache,
    index: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    variant: Variant,
) -> torch.Tensor:
    """Attention of a piece of one row, q [tokens, heads, size] -> [tokens, heads, value size]."""
    piece = step.pieces[index]
    window = variant.window
    until = piece.start + piece.last - piece.first
    if window is not None and until <= window:
        window = None
    if piece.start:
        keys, values = step.cache.read(cached, step.piece_pages(index), 1)
        k, v = keys[0, :until], values[0, :until]
    elif window is None and variant.plain and piece.runs is None:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=variant.scaling, enable_gqa=True)
        return out[0].transpose(0, 1)
    mask = step.piece_mask(index, until, window)
    tokens, heads, size = q.shape
    kv_heads = k.shape[1]
    q = q.transpose(0, 1).reshape(kv_heads, heads // kv_heads, tokens, size)
    k, v = k.transpose(0, 1), v.transpose(0, 1)
    if variant.plain:
        shape = (-1, q.shape[1], -1, -1)
        k, v = k[:, None].expand(shape), v[:, None].expand(shape)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=variant.scaling)
    else:
        block = max(1, _MOST_SCORES // (heads * until))
        parts = [
            _scores_attention(q[None, :, :, a : a + block], k[None], v[None], mask[a : a + block], variant)[0]
            for a in range(0, tokens, block)
        ]
        out = torch.cat(parts, dim=2)
    return out.reshape(heads, tokens, -1).transpose(0, 1)


def _scores_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, variant: Variant
) -> torch.Tensor:
    """Attention with soft caps and sinks, spelled out.

    q [rows, KV heads, group, tokens, size], k and v [rows, KV heads, keys, size], mask broadcast to the scores
    [rows, KV heads, group, tokens, keys] -> [rows, KV heads, group, tokens, value size].
    """
    rows, kv_heads, group, tokens, size = q.shape
    scaling = size**-0.5 if variant.scaling is None else variant.scaling
    scores = torch.matmul(q.reshape(rows, kv_heads, group * tokens, size) * scaling, k.transpose(2, 3))
    scores = scores.view(rows, kv_heads, group, tokens, -1)
    if variant.softcap is not None:
        scores = torch.tanh(scores / variant.softcap) * variant.softcap
    if mask is not None:
        scores = scores + mask
    if variant.sinks is not None:
        sinks = variant.sinks.view(1, kv_heads, group, 1, 1).to(scores.dtype)
        scores = torch.cat([scores, sinks.expand(rows, -1, -1, tokens, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    if variant.sinks is not None:
        weights = weights[..., :-1]
    out = torch.matmul(weights.reshape(rows, kv_heads, group * tokens, -1), v)
    return out.view(rows, kv_heads, group, tokens, -1)
