"""Flags of how models mark reasoning and calls of tools in their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mesh.config import option
from mesh.worker.flags import Flags

ToolParser = Literal[
    "auto",
    "none",
    "harmony",
    "deepseek",
    "mistral",
    "glm",
    "qwen_xml",
    "phi",
    "granite",
    "hermes",
    "pythonic",
    "llama3_json",
]
ReasoningParser = Literal["auto", "none", "harmony", "mistral", "think"]


@dataclass(frozen=True)
class DialectFlags(Flags):
    """Parsers of answers."""

    engines = frozenset({"transformers", "vllm", "vllm-grpc", "scripted"})

    tool_parser: ToolParser = option(
        "auto",
        "How the model writes calls of tools: auto (as its chat template says), none (calls stay in the text), hermes "
        "(Qwen 2.5 and 3 too), qwen_xml (Qwen coders), llama3_json, pythonic, mistral, deepseek, harmony (gpt-oss), "
        "glm, granite or phi.",
    )
    reasoning_parser: ReasoningParser = option(
        "auto",
        "How the model writes reasoning: auto (as its chat template says), none (it stays in the text), think "
        "(<think> and </think>), mistral ([THINK] and [/THINK]) or harmony (gpt-oss).",
    )
