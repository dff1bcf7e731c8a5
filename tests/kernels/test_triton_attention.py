"""Triton's attention against attention written out, on a GPU or, without one, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from mesh.engine.transformers.attention.interface import Piece, Variant
from mesh.engine.transformers.attention.kv_cache import LayerCache, LayerShape
from mesh.engine.transformers.attention.paged import PagedRows
from mesh.engine.transformers.attention.triton_attention import TritonKernels, splits_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter knows no products of bfloat16.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16


@dataclass
class Case:
    """`decoding` and `pieces` are (tokens in the cache before, new tokens) of each row."""

    decoding: list[int] = field(default_factory=list[int])
    pieces: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    heads: int = 4
    kv_heads: int = 2
    size: int = 16
    value_size: int = 16
    page: int = 16
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    scaling: float | None = None
    dtype: torch.dtype = torch.float32


CASES = {
    "one row": Case([7]),
    "rows of all lengths": Case([1, 2, 16, 17, 64, 65, 200]),
    "many rows, few splits": Case([5 + 3 * index for index in range(40)], heads=8, kv_heads=8),
    "a piece": Case(pieces=[(0, 5)]),
    "pieces over several blocks": Case(pieces=[(0, 130), (30, 70), (64, 1)]),
    "rows and pieces": Case([3, 90], [(0, 20), (100, 33)]),
    "window": Case([3, 16, 17, 90], [(0, 100), (50, 70)], window=16),
    "window that is wider": Case([3], [(0, 10)], window=500),
    "soft cap": Case([40], [(0, 40)], softcap=3.0),
    "sinks": Case([1, 40], [(0, 40)], sinks=True),
    "sinks without splits": Case([9] * 140, heads=2, kv_heads=2, sinks=True),
    "sinks and a window": Case([40], [(10, 40)], sinks=True, window=8),
    "one KV head": Case([40], [(0, 20)], heads=6, kv_heads=1),
    "narrow values": Case([40], [(5, 20)], heads=4, kv_heads=4, size=12, value_size=8),
    "odd head size and page": Case([40], [(5, 20)], size=20, value_size=20, page=5),
    "scaling": Case([40], [(5, 20)], scaling=0.5),
    "half precision": Case([40, 200], [(5, 20)], size=64, value_size=64, dtype=HALF),
}


@pytest.mark.parametrize("name", CASES)
def test_attention(name: str) -> None:
    case = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    lengths = [*case.decoding, *(before + new for before, new in case.pieces)]
    pages_each = [-(-length // case.page) for length in lengths]
    pages = 1 + sum(pages_each)
    order = 1 + np.random.default_rng(3).permutation(pages - 1)
    table = np.zeros((len(lengths) + 1, max(pages_each)), np.int64)
    for line, (count, end) in enumerate(zip(pages_each, np.cumsum(pages_each), strict=True)):
        table[line, :count] = order[end - count : end]
    layer = _layer(case, pages, generator)
    news = [1] * len(case.decoding) + [new for _, new in case.pieces]
    q = torch.randn(sum(news), case.heads, case.size, generator=generator).to(DEVICE, case.dtype)
    sinks = torch.randn(case.heads, generator=generator).to(DEVICE) if case.sinks else None
    variant = Variant(case.scaling, case.window, case.softcap, sinks)

    out = torch.full((sum(news), case.heads, case.value_size), torch.nan, device=DEVICE, dtype=case.dtype)
    TritonKernels().plan(_rows(case, table))(layer, q, variant, out)

    expected: list[torch.Tensor] = []
    first = 0
    for line, (length, new) in enumerate(zip(lengths, news, strict=True)):
        places = torch.arange(length)
        at = torch.from_numpy(table[line])[places // case.page] * case.page + places % case.page
        at = at.to(DEVICE)
        expected.append(_plain(q[first : first + new], layer.keys[at], layer.values[at], variant))
        first += new
    torch.testing.assert_close(out, torch.cat(expected).to(case.dtype), **_tolerance(case.dtype))


def _tolerance(dtype: torch.dtype) -> dict[str, Any]:
    return {"atol": 2e-2, "rtol": 2e-2} if dtype != torch.float32 else {"atol": 2e-6, "rtol": 1e-5}


def _layer(case: Case, pages: int, generator: torch.Generator) -> LayerCache:
    shape = LayerShape(case.kv_heads, case.size, case.value_size)
    layer = LayerCache(shape, pages, case.page, torch.empty(0, dtype=case.dtype, device=DEVICE))
    layer.keys.copy_(torch.randn(layer.keys.shape, generator=generator))
    layer.values.copy_(torch.randn(layer.values.shape, generator=generator))
    # Nobody may look at the page that padding names.
    layer.keys[: case.page] = torch.nan
    layer.values[: case.page] = torch.nan
    return layer


def _rows(case: Case, table: np.ndarray[Any, np.dtype[np.int64]]) -> PagedRows:
    decoding = len(case.decoding)
    pieces: list[Piece] = []
    first = decoding
    for line, (before, new) in enumerate(case.pieces, decoding):
        pieces.append(Piece(first, first + new, before, line, table[line]))
        first += new
    return PagedRows(
        torch.from_numpy(table).to(DEVICE, torch.int32),
        torch.arange(decoding, device=DEVICE),
        torch.tensor(case.decoding, dtype=torch.int64, device=DEVICE),
        pieces,
        table.shape[1] * case.page,
    )


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Attention of the last tokens of one row over all of it, in float64."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    heads, new, size = q.shape
    length = k.shape[1]
    k, v = (x.repeat_interleave(heads // x.shape[0], 0) for x in (k, v))
    scores = q @ k.transpose(1, 2) * (size**-0.5 if variant.scaling is None else variant.scaling)
    if variant.softcap is not None:
        scores = variant.softcap * torch.tanh(scores / variant.softcap)
    query = torch.arange(length - new, length, device=q.device)[:, None]
    key = torch.arange(length, device=q.device)[None]
    hidden = key > query
    if variant.window is not None:
        hidden |= key <= query - variant.window
    scores = scores.masked_fill(hidden, -torch.inf)
    if variant.sinks is not None:
        scores = torch.cat([scores, variant.sinks.double()[:, None, None].expand(-1, new, 1)], -1)
    weights = scores.softmax(-1)[..., :length]
    return (weights @ v).transpose(0, 1)


def test_new_keys_and_values_go_to_their_places() -> None:
    generator = torch.Generator().manual_seed(1)
    case = Case([1], kv_heads=3, size=12, value_size=8)
    layer, other = (_layer(case, 4, torch.Generator().manual_seed(2)) for _ in range(2))
    # As models hand them over: [heads, tokens, size], transposed.
    k = torch.randn(3, 5, 12, generator=generator).to(DEVICE).transpose(0, 1)
    v = torch.randn(3, 5, 8, generator=generator).to(DEVICE).transpose(0, 1)
    slots = torch.tensor([50, 17, 40, 33, 16], device=DEVICE)
    assert TritonKernels().plan(_rows(case, np.zeros((2, 1), np.int64))).store(layer, slots, k, v)
    other.keys[slots] = k
    other.values[slots] = v
    torch.testing.assert_close(layer.keys, other.keys, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(layer.values, other.values, equal_nan=True, rtol=0, atol=0)


def test_few_rows_are_split_and_many_are_not() -> None:
    assert splits_for(1, 8) == 32
    assert splits_for(16, 8) == 4
    assert splits_for(128, 8) == 1
