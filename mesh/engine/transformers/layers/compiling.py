"""A model's layers through torch.compile, which makes one kernel of many small ones between two products."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from mesh.engine.transformers.attention.interface import NAME, packed_attention


def compile_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Compile each decoder layer when it first runs; returns the layers.

    Layer by layer: all of a kind share their code, so that one is compiled and not dozens. Attention stays out of it:
    which kernels it launches depends on the step.
    """
    layers = _layers(model)
    # Imports the compiler, which takes seconds, hence here.
    disable: Any = cast("Any", torch.compiler).disable
    cast("Any", AttentionInterface).register(NAME, disable(packed_attention))
    for layer in layers:
        layer.compile(dynamic=True)
    return layers


def undo_compile(layers: list[nn.Module]) -> None:
    """Run the layers as they were written again."""
    for layer in layers:
        layer._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage]  # there is no public way back


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    count: int = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    for found in lists:
        if len(found) == count:
            return list(found)
    return []
