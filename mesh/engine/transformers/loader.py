"""Loading a model (skeleton: final signatures, being filled)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mesh.engine.chat import ChatRenderer
from mesh.engine.text import Tokenizer


@dataclass(frozen=True)
class LoadOptions:
    """What to load and how."""

    path: str
    name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None
    context_length: int | None = None
    chat_template: str | None = None


@dataclass
class LoadedModel:
    """A model that is ready to run."""

    name: str
    model: PreTrainedModel  # eval mode, on `device`, no gradients
    tokenizer: Tokenizer
    chat: ChatRenderer  # chat.render(Chat) -> list[int]
    config: PretrainedConfig
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    context_length: int
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    parameters: int
    architecture: str
    has_chat_template: bool


def load(options: LoadOptions, progress: Callable[[str], None]) -> LoadedModel:
    """Blocking. Raises MeshError with one clear sentence."""
    raise NotImplementedError
