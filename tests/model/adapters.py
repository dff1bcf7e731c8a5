"""Random LoRA adapters in PEFT's format, and the models that they make when they are merged into the weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Made:
    """An adapter on disk, and the model that it makes."""

    path: str
    merged: PreTrainedModel


def make_adapter(
    folder: Path,
    model: PreTrainedModel,
    *,
    rank: int = 4,
    alpha: float = 8,
    targets: Sequence[str] = LLAMA,
    seed: int = 0,
) -> Made:
    """Write an adapter for the layers whose names end in `targets`."""
    generator = torch.Generator().manual_seed(seed)
    merged = copy.deepcopy(model)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in cast("Any", merged).named_modules():
        if name.rsplit(".", 1)[-1] not in targets:
            continue
        weight: torch.Tensor = module.weight
        outputs, inputs = reversed(weight.shape) if isinstance(module, Conv1D) else weight.shape
        a = torch.randn(rank, inputs, generator=generator) * inputs**-0.5
        b = torch.randn(outputs, rank, generator=generator) * rank**-0.5
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        change = alpha / rank * (b @ a)
        with torch.no_grad():
            weight += change.t() if isinstance(module, Conv1D) else change
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": list(targets)}
    write(folder, config, tensors)
    return Made(str(folder), merged)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """The two files of an adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(dict(tensors), folder / "adapter_model.safetensors")


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What `write` has written."""
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    return config, safetensors.torch.load_file(Path(folder) / "adapter_model.safetensors")
