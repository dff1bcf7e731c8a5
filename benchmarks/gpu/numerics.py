"""Do all attention kernels compute what the model's own code does? Asked before anything is timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from benchmarks.table import markdown
from mesh.engine.transformers.attention.kernels import CHOICES, find_kernels
from mesh.engine.transformers.runners.selftest import check_packed
from mesh.errors import MeshError

_VOCABULARY = 512
_SIZES: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
}
# What asks for what: plain, a window, soft caps, sinks.
_MODELS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 16},
    "Gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 64},
    "GptOss": {"sliding_window": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
}


def table(device: torch.device) -> str:
    """Relative differences of the logits to those of eager attention, or why a kernel cannot be used."""
    rows = [row for dtype in (torch.float32, torch.bfloat16) for row in _rows(device, dtype)]
    names = [name for name in CHOICES if name != "auto"]
    return markdown(("logits beside eager attention", *names), rows)


def _rows(device: torch.device, dtype: torch.dtype) -> Iterator[list[str]]:
    for family, changes in _MODELS.items():
        config = getattr(transformers, f"{family}Config")(**_SIZES | changes)
        label = f"{family}, {str(dtype).removeprefix('torch.')}"
        yield [label, *(_compare(family, config, name, device, dtype) for name in CHOICES if name != "auto")]


def _compare(family: str, config: PretrainedConfig, name: str, device: torch.device, dtype: torch.dtype) -> str:
    try:
        (kernels,) = find_kernels(name, device)
    except MeshError:
        return "absent"
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(device, dtype).eval()
    with torch.inference_mode():
        verdict = check_packed(model, _VOCABULARY, 1024, kernels.page_size if kernels else 16, kernels)
    return verdict.reason or f"{verdict.difference:.1e}"
