"""Flags of models that embed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mesh.config import option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class EmbeddingFlags(Flags):
    """How embeddings are made."""

    engines = frozenset({"transformers"})

    pooling: Literal["mean", "cls", "last"] | None = option(
        None,
        "How an embedding is made of a text's hidden states: their mean, that of the first token (cls) or of the last. "
        "Default: as the model's files say, else last for decoders and mean for encoders.",
    )
