"""Flags of the vLLM engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mesh.config import ConfigError, option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class VllmFlags(Flags):
    """What is said to vLLM in its own words."""

    engines = frozenset({"vllm"})

    vllm_option: tuple[str, ...] = option(
        (),
        "vLLM: one of its engine arguments as name=value, such as tensor_parallel_size=4; may be repeated. Values are "
        "JSON where they can be read as such, else text.",
    )

    def __post_init__(self) -> None:
        for given in self.vllm_option:
            if not given.partition("=")[0].isidentifier() or "=" not in given:
                raise ConfigError(f"--vllm-option must be name=value, not '{given}'")
        super().__post_init__()

    def vllm_arguments(self) -> dict[str, Any]:
        """The arguments by name."""
        return {name: _value(text) for name, _, text in (given.partition("=") for given in self.vllm_option)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
