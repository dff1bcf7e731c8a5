"""The kernels of triton_attention.py, in Triton's language."""

# Triton has no types, and is not installed where there is no GPU.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false, reportUntypedFunctionDecorator=false
from __future__ import annotations

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _scores(q, k, scale, softcap, HAS_CAP: tl.constexpr):
    """Scores in units of log 2, from q [M, size] and k [size, N]."""
    s = tl.dot(q, k, input_precision="ieee") * scale
    if HAS_CAP:
        # tanh by the sigmoid, which every backend has.
        s = softcap * (2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0)
    return s * _LOG2E


@triton.jit
def _key_places(table, row, places, seen, table_stride, PAGE: tl.constexpr):
    """Where the keys of these positions lie, in tokens of the cache."""
    pages = tl.load(table + row * table_stride + places // PAGE, mask=seen, other=0)
    return pages.to(tl.int64) * PAGE + places % PAGE


@triton.jit
def decode_kernel(
    q, k, v, out, part_out, part_max, part_sum, sinks, table, rows, lengths,
    scale, softcap, window,
    q_row, q_head, k_token, k_head, v_token, v_head, table_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SIZE: tl.constexpr, SIZE_PAD: tl.constexpr,
    V_SIZE: tl.constexpr, V_PAD: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """One split of one row's keys for the heads of one KV head."""
    index, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tl.load(rows + index)
    length = tl.load(lengths + index).to(tl.int32)
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(0, length - window)
    share = tl.cdiv(tl.cdiv(length - first, SPLITS), BLOCK) * BLOCK
    begin = first + split * share
    end = tl.minimum(begin + share, length)

    heads, dims, v_dims = tl.arange(0, GROUP_PAD), tl.arange(0, SIZE_PAD), tl.arange(0, V_PAD)
    head_ok, dim_ok, v_ok = heads < GROUP, dims < SIZE, v_dims < V_SIZE
    head = kv_head * GROUP + heads
    q_at = q + index.to(tl.int64) * q_row + head[:, None] * q_head + dims[None, :]
    queries = tl.load(q_at, mask=head_ok[:, None] & dim_ok[None, :], other=0.0)
    most = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([GROUP_PAD, V_PAD], tl.float32)
    for start in range(begin, end, BLOCK):
        places = start + tl.arange(0, BLOCK)
        seen = places < end
        at = _key_places(table, row, places, seen, table_stride, PAGE)
        k_at = k + at[None, :] * k_token + kv_head * k_head + dims[:, None]
        keys = tl.load(k_at, mask=seen[None, :] & dim_ok[:, None], other=0.0)
        s = tl.where(seen[None, :], _scores(queries, keys, scale, softcap, HAS_CAP), float("-inf"))
        higher = tl.maximum(most, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        keep = tl.exp2(most - higher)
        v_at = v + at[:, None] * v_token + kv_head * v_head + v_dims[None, :]
        values = tl.load(v_at, mask=seen[:, None] & v_ok[None, :], other=0.0)
        acc = acc * keep[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
        total = total * keep + tl.sum(p, 1)
        most = higher

    if SPLITS == 1:
        if HAS_SINKS:
            sink = tl.load(sinks + head, mask=head_ok, other=0.0).to(tl.float32) * _LOG2E
            higher = tl.maximum(most, sink)
            keep = tl.exp2(most - higher)
            total = total * keep + tl.exp2(sink - higher)
            acc = acc * keep[:, None]
        o_at = out + (index.to(tl.int64) * HEADS + head[:, None]) * V_SIZE + v_dims[None, :]
        value = acc / total[:, None]
        tl.store(o_at, value.to(out.dtype.element_ty), mask=head_ok[:, None] & v_ok[None, :])
    else:
        place = (index.to(tl.int64) * HEADS + head) * SPLITS + split
        tl.store(part_max + place, most, mask=head_ok)
        tl.store(part_sum + place, total, mask=head_ok)
        tl.store(part_out + place[:, None] * V_SIZE + v_dims[None, :], acc, mask=head_ok[:, None] & v_ok[None, :])


@triton.jit
def join_kernel(
    out, part_out, part_max, part_sum, sinks,
    HEADS: tl.constexpr, V_SIZE: tl.constexpr, V_PAD: tl.constexpr, SPLITS: tl.constexpr, HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """Join the splits of one row and head."""
    place = tl.program_id(0).to(tl.int64) * HEADS + tl.program_id(1)
    splits, dims = tl.arange(0, SPLITS), tl.arange(0, V_PAD)
    most = tl.load(part_max + place * SPLITS + splits)
    total = tl.load(part_sum + place * SPLITS + splits)
    highest = tl.max(most, 0)
    sink = 0.0
    if HAS_SINKS:
        sink = tl.load(sinks + tl.program_id(1)).to(tl.float32) * _LOG2E
        highest = tl.maximum(highest, sink)
    weight = tl.exp2(most - highest)
    whole = tl.sum(total * weight, 0)
    if HAS_SINKS:
        whole += tl.exp2(sink - highest)
    at = part_out + (place * SPLITS + splits[:, None]) * V_SIZE + dims[None, :]
    # A split without a key has written zeros.
    parts = tl.load(at, mask=(dims < V_SIZE)[None, :], other=0.0)
    value = tl.sum(parts * weight[:, None], 0) / whole
    tl.store(out + place * V_SIZE + dims, value.to(out.dtype.element_ty), mask=dims < V_SIZE)


@triton.jit
def piece_kernel(
    q, k, v, out, sinks, table, block_piece, block_first, piece_first, piece_count, piece_start, piece_row,
    scale, softcap, window,
    q_row, q_head, k_token, k_head, v_token, v_head, table_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, SIZE_PAD: tl.constexpr,
    V_SIZE: tl.constexpr, V_PAD: tl.constexpr, PAGE: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """A block of a piece's tokens for one head."""
    block, head = tl.program_id(0), tl.program_id(1)
    piece = tl.load(block_piece + block)
    offset = tl.load(block_first + block).to(tl.int32)
    count = tl.load(piece_count + piece).to(tl.int32)
    start = tl.load(piece_start + piece).to(tl.int32)
    row = tl.load(piece_row + piece)

    inside, dims, v_dims = offset + tl.arange(0, QUERIES), tl.arange(0, SIZE_PAD), tl.arange(0, V_PAD)
    query_ok, dim_ok, v_ok = inside < count, dims < SIZE, v_dims < V_SIZE
    token = tl.load(piece_first + piece).to(tl.int64) + inside
    q_at = q + token[:, None] * q_row + head * q_head + dims[None, :]
    queries = tl.load(q_at, mask=query_ok[:, None] & dim_ok[None, :], other=0.0)
    position = start + inside
    end = start + tl.minimum(offset + QUERIES, count)
    begin = 0
    if HAS_WINDOW:
        begin = tl.maximum(0, start + offset - window + 1) // BLOCK * BLOCK
    kv_head = head // GROUP
    most = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    if HAS_SINKS:
        most = tl.zeros([QUERIES], tl.float32) + tl.load(sinks + head).to(tl.float32) * _LOG2E
        total = tl.full([QUERIES], 1.0, tl.float32)
    acc = tl.zeros([QUERIES, V_PAD], tl.float32)
    for first in range(begin, end, BLOCK):
        places = first + tl.arange(0, BLOCK)
        there = places < end
        at = _key_places(table, row, places, there, table_stride, PAGE)
        k_at = k + at[None, :] * k_token + kv_head * k_head + dims[:, None]
        keys = tl.load(k_at, mask=there[None, :] & dim_ok[:, None], other=0.0)
        seen = places[None, :] <= position[:, None]
        if HAS_WINDOW:
            seen &= places[None, :] > position[:, None] - window
        s = tl.where(seen, _scores(queries, keys, scale, softcap, HAS_CAP), float("-inf"))
        higher = tl.maximum(most, tl.max(s, 1))
        # With a window, a query may see none of these keys and none before.
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(s - shift[:, None])
        keep = tl.exp2(most - shift)
        v_at = v + at[:, None] * v_token + kv_head * v_head + v_dims[None, :]
        values = tl.load(v_at, mask=there[:, None] & v_ok[None, :], other=0.0)
        acc = acc * keep[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
        total = total * keep + tl.sum(p, 1)
        most = higher
    o_at = out + (token[:, None] * HEADS + head) * V_SIZE + v_dims[None, :]
    # Beyond the piece's end a window may show nothing at all.
    value = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(o_at, value.to(out.dtype.element_ty), mask=query_ok[:, None] & v_ok[None, :])


@triton.jit
def store_kernel(
    k, v, keys, values, slots,
    k_token, k_head, v_token, v_head,
    HEADS: tl.constexpr, SIZE: tl.constexpr, V_SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy one token's keys and values of all heads to its place in the cache."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    at = tl.arange(0, BLOCK)
    here = at < HEADS * SIZE
    found = tl.load(k + token * k_token + at // SIZE * k_head + at % SIZE, mask=here)
    tl.store(keys + slot * HEADS * SIZE + at, found, mask=here)
    here = at < HEADS * V_SIZE
    found = tl.load(v + token * v_token + at // V_SIZE * v_head + at % V_SIZE, mask=here)
    tl.store(values + slot * HEADS * V_SIZE + at, found, mask=here)


@triton.jit
def row_kernel(
    x, weight, bias, out, OUT, IN,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """`ROWS` outputs of a linear layer for a single row of inputs."""
    row, at = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    row_ok = row < OUT
    acc = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, IN, BLOCK):
        column = start + at
        column_ok = column < IN
        w_at = weight + row[:, None].to(tl.int64) * IN + column[None, :]
        w = tl.load(w_at, mask=row_ok[:, None] & column_ok[None, :], other=0.0).to(tl.float32)
        acc += w * tl.load(x + column, mask=column_ok, other=0.0).to(tl.float32)[None, :]
    total = tl.sum(acc, 1)
    if HAS_BIAS:
        total += tl.load(bias + row, mask=row_ok, other=0.0).to(tl.float32)
    tl.store(out + row, total.to(out.dtype.element_ty), mask=row_ok)
