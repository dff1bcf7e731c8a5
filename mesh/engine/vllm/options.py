"""What the vLLM engine is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.engine.transformers.loading.options import LoadOptions


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Which model, how many rows, and what vLLM's own engine arguments are besides."""

    model: LoadOptions
    max_rows: int = 64
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
