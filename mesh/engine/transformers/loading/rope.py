"""Rotary positions that a checkpoint was trained with and transformers does not read from its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from transformers import PretrainedConfig

# LLaMA's own. A configuration with more counts the condensed positions already.
_TRAINED: Final = 2048
_NAMES: Final = re.compile(r"\blongchat-\d+b-(\d+)k\b", re.IGNORECASE)


def condense_rope(config: PretrainedConfig, names: Iterable[str]) -> str | None:
    """Scale the rope of a LongChat model in `config`, and say so; None if there is nothing to scale.

    LongChat was trained on positions divided by `rope_condense_ratio`, a key of its own in config.json. Without the key
    the model's name tells the ratio: longchat-7b-16k has 16 k positions in the place of LLaMA's 2 k.
    """
    rope: dict[str, Any] | None = getattr(config, "rope_parameters", None)
    if config.model_type != "llama" or not rope or rope.get("rope_type") != "default":
        return None
    ratio: Any = getattr(config, "rope_condense_ratio", None) or _ratio_by_name(names)
    if not isinstance(ratio, int | float) or ratio <= 1:
        return None
    settings: Any = config
    settings.rope_parameters = {**rope, "rope_type": "linear", "factor": float(ratio)}
    if settings.max_position_embeddings <= _TRAINED:
        settings.max_position_embeddings = int(settings.max_position_embeddings * ratio)
    return f"rope: positions divided by {ratio:g}, as LongChat was trained"


def _ratio_by_name(names: Iterable[str]) -> int | None:
    for name in names:
        if match := _NAMES.search(name):
            return int(match[1]) * 1024 // _TRAINED
    return None
