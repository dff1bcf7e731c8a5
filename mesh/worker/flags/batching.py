"""Flags of engines that make their batches themselves: the size of a step, and the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mesh.config import ByteSize, ConfigError, option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class BatchingFlags(Flags):
    """How requests are put together, and what memory they have."""

    engines = frozenset({"transformers"})

    step_tokens: int | None = option(None, "Most tokens computed in one step. Default: by the device.", low=1)
    step_seconds: float = option(
        0.25,
        "Longest step in seconds while answers are written: prompts are read in smaller pieces for it; 0 is any.",
        low=0,
    )
    kv_cache_tokens: int | None = option(
        None, "Tokens that the KV cache holds. Default: by its share of memory.", low=1
    )
    kv_cache_share: float | None = option(
        None, "Share of the free memory that the KV cache takes. Default: by the device.", low=0.001, high=1
    )
    kv_cache_memory: ByteSize | None = option(
        None, "Memory that the KV cache takes, such as 4GiB. Default: by its share of memory.", low=1
    )
    page_size: int | None = option(None, "Tokens per page of the KV cache. Default: by the device.", low=1)
    prefix_cache: bool = option(True, "Share the KV cache of equal beginnings between requests.")
    packed: bool = option(True, "Compute all sequences in one forward pass, where the model's layers allow it.")
    attention: Literal["auto", "triton", "varlen", "flash_attn", "cpp", "sdpa"] = option(
        "auto",
        "What computes attention: auto, sdpa (torch, anywhere); on CUDA triton, varlen or flash_attn; on CPUs cpp, "
        "which needs a C++ compiler.",
    )
    cuda_graphs: bool = option(True, "On CUDA: record decoding steps as graphs, which saves launching each kernel.")
    compile: bool = option(
        False, "On CUDA and CPUs: send the model through torch.compile; a start takes longer, steps are shorter."
    )

    speculate_tokens: int = option(
        0,
        "Tokens that a sequence guesses ahead from its own text and checks in one step; 0 is off. Changes no answer.",
        low=0,
        high=16,
    )

    def __post_init__(self) -> None:
        sizes = (self.kv_cache_tokens, self.kv_cache_share, self.kv_cache_memory)
        if sum(size is not None for size in sizes) > 1:
            raise ConfigError("--kv-cache-tokens, --kv-cache-share and --kv-cache-memory exclude each other")
        super().__post_init__()
