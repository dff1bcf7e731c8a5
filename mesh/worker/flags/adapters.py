"""Flags of the adapters that a worker serves beside its model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.config import ConfigError, option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class AdapterFlags(Flags):
    """Which adapters are there from the start, and how many there may be."""

    engines = frozenset({"transformers"})

    lora: tuple[str, ...] = option(
        (),
        "LoRA adapter to serve from the start, as name=path: a folder in PEFT's format, or its name on the hub; may be "
        "repeated. Requests choose it by its name, as a model.",
    )
    max_loras: int = option(8, "Most adapters of a model that are loaded at a time; 0 takes none.", low=0)

    def __post_init__(self) -> None:
        for given in self.lora:
            if not re.fullmatch(r"[^=]+=.+", given):
                raise ConfigError(f"--lora must be name=path, not '{given}'")
        names = [name for name, _ in self.loras]
        if len(set(names)) < len(names):
            raise ConfigError(f"--lora must name each adapter once, not {', '.join(names)}")
        if len(names) > self.max_loras:
            raise ConfigError(f"--lora is given {len(names)} times, more than --max-loras ({self.max_loras}) allows")
        super().__post_init__()

    @property
    def loras(self) -> list[tuple[str, str]]:
        """Names and paths."""
        return [(name, path) for name, _, path in (given.partition("=") for given in self.lora)]
