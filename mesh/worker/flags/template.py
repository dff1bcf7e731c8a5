"""Flags of how prompts are made of conversations."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.config import option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class TemplateFlags(Flags):
    """Chat templates."""

    engines = frozenset({"transformers", "vllm", "vllm-grpc"})

    chat_template: tuple[str, ...] = option(
        (),
        "Chat template to use instead of the model's own: a name (`mesh templates` lists them), or a file of jinja; "
        "repeated like --model-path in the same order.",
    )
    allow_chat_templates: bool = option(
        False,
        "Let requests bring chat templates of their own. These are programs: one can loop without end or take all "
        "memory, so allow them only where all clients are trusted.",
    )
