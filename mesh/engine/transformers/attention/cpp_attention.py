"""Attention of single tokens on CPUs by a kernel in C++ that reads keys and values in their pages.

torch's compiler builds it for the processor at hand, in a few seconds, and keeps what it built. A row's result is the
same to the bit whoever is beside it.
"""

from __future__ import annotations

import ctypes
import importlib
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mesh.engine.transformers.attention.interface import IntArray, PackingError, Variant
from mesh.engine.transformers.attention.kv_cache import LayerCache

_SOURCE = Path(__file__).with_name("cpp_kernels.cpp")
# Products and sums in one operation, which is twice as fast.
_FLAGS = ["-ffp-contract=fast"]
_LANES = 16


class _Call(ctypes.Structure):
    """`Call` in the source."""

    _fields_ = (
        *((name, c_void_p) for name in ("queries", "keys", "values", "sinks", "out", "tables", "lengths")),
        *((name, c_int64) for name in ("rows", "heads", "kv_heads", "key_size", "value_size")),
        *((name, c_int64) for name in ("page_size", "table_width", "query_row", "query_head", "window")),
        ("scaling", c_float),
        ("softcap", c_float),
    )


@dataclass(frozen=True, slots=True)
class SingleTokens:
    """Tokens that attend each by itself: `tables` [tokens, pages] names the pages of each one's row, 0 where there is
    none, and `lengths` [tokens] counts what it sees, itself included."""

    tables: IntArray
    lengths: IntArray


class CppKernels:
    """The kernel. Everything that it is given lies in main memory."""

    name = "cpp"
    page_size = 16

    def __init__(self) -> None:
        """Builds it. Raises what torch's compiler raises, which needs one for C++."""
        compiler: Any = importlib.import_module("torch._inductor.codecache").CppCodeCache
        # For the processor at hand it builds anyway; without trying out first which vectors torch itself could use.
        library: Any = compiler.load(_SOURCE.read_text(), extra_flags=_FLAGS, needs_vec_isa=False)
        self._run = {torch.float32: library.mesh_attend_float, torch.bfloat16: library.mesh_attend_bfloat16}
        for run in self._run.values():
            run.argtypes, run.restype = [c_void_p], None

    def attend(
        self, cached: LayerCache, tokens: SingleTokens, q: torch.Tensor, variant: Variant, out: torch.Tensor
    ) -> None:
        """q [tokens, heads, key size] over the pages of `cached`, to `out` [tokens, heads, value size]."""
        run = self._run.get(out.dtype)
        if run is None or cached.shape.key_size % _LANES or cached.shape.value_size % _LANES:
            raise PackingError(
                f"the kernel in C++ knows float32, bfloat16, and heads of a multiple of {_LANES} numbers"
            )
        shape, sinks = cached.shape, None if variant.sinks is None else variant.sinks.float()
        if q.stride(2) != 1:
            q = q.contiguous()
        call = _Call(
            *(q.data_ptr(), cached.keys.data_ptr(), cached.values.data_ptr()),
            *(None if sinks is None else sinks.data_ptr(), out.data_ptr()),
            *(tokens.tables.ctypes.data, tokens.lengths.ctypes.data),
            *(q.shape[0], q.shape[1], shape.heads, shape.key_size, shape.value_size),
            *(cached.page_size, tokens.tables.shape[1], q.stride(0), q.stride(1), variant.window or 0),
            *(shape.key_size**-0.5 if variant.scaling is None else variant.scaling, variant.softcap or 0.0),
        )
        run(ctypes.addressof(call))
