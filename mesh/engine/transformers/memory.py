"""How many pages the KV cache gets."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from mesh.errors import invalid

# Of what is free once the model is loaded. On a CPU other processes live from the same memory; on CUDA the rest is
# for activations.
_CPU_SHARE = 0.25
_CUDA_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class CacheSize:
    """How large the KV cache may be: in tokens, or in bytes, or as a share (0 to 1) of free memory, or by default.

    `parts` is the number of models that share the bytes or the share; tokens are each model's own.
    """

    tokens: int | None = None
    bytes: int | None = None
    share: float | None = None
    parts: int = 1


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on the device."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type != "cpu":
        # cuda, xpu and npu have the same functions.
        return int(getattr(torch, device.type).mem_get_info(device)[0])
    candidates = [_meminfo_available(), _cgroup_available()]
    return min((value for value in candidates if value is not None), default=4 << 30)


def _meminfo_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    names = os.sysconf_names
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _cgroup_available() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def cache_pages(
    size: CacheSize, *, page_size: int, bytes_per_token: int, most_tokens: int, device: torch.device
) -> int:
    """Pages of the KV cache, page 0 included. `most_tokens` is what could be used at all.

    Raises invalid_request when the cache would not hold a single page for each of two rows, or is larger than what is
    free.
    """
    free = free_memory(device)
    if size.tokens is not None:
        tokens, param = size.tokens, "kv_cache_tokens"
    elif size.bytes is not None:
        tokens, param = size.bytes // size.parts // bytes_per_token, "kv_cache_memory"
    else:
        share = size.share if size.share is not None else _CUDA_SHARE if device.type == "cuda" else _CPU_SHARE
        tokens, param = int(free * share) // size.parts // bytes_per_token, "kv_cache_share"
        tokens = min(tokens, most_tokens)
    pages = tokens // page_size
    if pages < 2:
        raise invalid(
            param,
            f"'{param}' gives a KV cache of {tokens} tokens ({bytes_per_token} bytes each): "
            f"must be at least {2 * page_size}",
        )
    needed = (pages + 1) * page_size * bytes_per_token
    if param != "kv_cache_share" and needed > free:
        text = f"takes {gib(needed)} at {bytes_per_token} bytes a token, but {device} has {gib(free)} free"
        raise invalid(param, f"the KV cache of '{param}' {text}")
    return pages + 1


def short_cache(tokens: int, context_length: int, bytes_per_token: int) -> str | None:
    """One sentence if the KV cache does not hold one full context, and what would help; else None."""
    if tokens >= context_length:
        return None
    needed = context_length * bytes_per_token
    return (
        f"the KV cache holds {tokens} tokens, so that requests may have no more, and not the model's {context_length}: "
        f"'--kv-cache-memory {gib(needed).replace(' ', '')}' would hold these, and '--context-length {tokens}' says "
        "that fewer are meant"
    )


def gib(count: int) -> str:
    """Bytes in words for people, rounded up to three digits."""
    unit, power = ("GiB", 3) if count >= 1024**3 else ("MiB", 2)
    return f"{math.ceil(count / 1024**power * 100) / 100:.2f} {unit}"
