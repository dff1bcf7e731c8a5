"""A model again, in another number format, in other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mesh.config import ConfigError
from mesh.counted import counted
from training.weights.checkpoint import cast_to, declare_dtype, read_tensors, write_tensors
from training.weights.folders import copy_beside, read_json, written


def rewrite(model: Path, output: Path, dtype: torch.dtype | None, max_shard_size: int) -> str:
    """Write `model` to `output`; `dtype` None keeps the numbers as they are. Returns a sentence on what was done."""
    config = read_json(model / "config.json")
    if dtype is not None and "quantization_config" in config:
        raise ConfigError(f"'{model}' is quantized: its numbers mean nothing in another format")
    tensors = _without_doubles(read_tensors(model), tied=_tied(config))
    shapes = tensors if dtype is None else {name: like(tensor, dtype) for name, tensor in tensors.items()}

    def make(name: str) -> torch.Tensor:
        return tensors[name] if dtype is None else cast_to(name, tensors[name], dtype)

    with written(output) as folder:
        copy_beside(model, folder)
        if dtype is not None:
            declare_dtype(folder / "config.json", dtype)
        files = write_tensors(folder, shapes, make, max_shard_size)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return f"{counted(len(tensors), 'tensor')}, {numbers:,} numbers, in {counted(files, 'file')} in {output}"


def like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """No numbers, but what `tensor` will look like in another format."""
    return torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device="meta")


def _tied(config: Mapping[str, Any]) -> bool:
    """As transformers reads it: embeddings are tied unless the configuration says no."""
    text: Mapping[str, Any] = config.get("text_config") or {}
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)))


def _without_doubles(tensors: Mapping[str, torch.Tensor], *, tied: bool) -> dict[str, torch.Tensor]:
    """Safetensors has no two names for the same numbers, as pickles of models with tied embeddings do.

    There the first one stays, the embedding of the input, from which transformers makes the others when it loads; in
    any other model each name gets numbers of its own.
    """
    known: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place not in known or not tensor.numel():
            kept[name] = tensor
        elif not tied:
            kept[name] = tensor.clone()
        known.add(place)
    return kept
