"""Answer bodies of Anthropic's API, their keys in Anthropic's order."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class TextOut(msgspec.Struct, tag="text"):
    """Text of an answer."""

    text: str = ""


class ThinkingOut(msgspec.Struct, tag="thinking"):
    """Reasoning of an answer. Its signature is a checksum, which nobody checks: it proves nothing."""

    thinking: str = ""
    signature: str = ""


class ToolUseOut(msgspec.Struct, tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any] = {}


BlockOut = TextOut | ThinkingOut | ToolUseOut


class OutputTokensDetails(msgspec.Struct):
    """Of the answer's tokens, those of the reasoning and its marks."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, kw_only=True):
    """Token counts. Those of the prompt are told apart by whether they came from the prefix cache: `input_tokens` did
    not."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails | msgspec.UnsetType = msgspec.UNSET


class Message(msgspec.Struct, kw_only=True):
    """Body of an answer, and how a streamed one begins."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[BlockOut]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageStart(msgspec.Struct, tag="message_start"):
    """A streamed answer begins: its message, without content."""

    message: Message


class Ping(msgspec.Struct, tag="ping"):
    """A sign of life."""


class BlockStart(msgspec.Struct, tag="content_block_start"):
    """A block begins, empty."""

    index: int
    content_block: BlockOut


class TextDelta(msgspec.Struct, tag="text_delta"):
    """More of a text."""

    text: str


class ThinkingDelta(msgspec.Struct, tag="thinking_delta"):
    """More of a reasoning."""

    thinking: str


class SignatureDelta(msgspec.Struct, tag="signature_delta"):
    """The signature of a reasoning that is complete."""

    signature: str


class InputDelta(msgspec.Struct, tag="input_json_delta"):
    """More of the JSON text of a call's input."""

    partial_json: str


class BlockDelta(msgspec.Struct, tag="content_block_delta"):
    """More of the block that began last."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(msgspec.Struct, tag="content_block_stop"):
    """A block is complete."""

    index: int


class Stop(msgspec.Struct):
    """Why an answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, tag="message_delta"):
    """What is known at the end."""

    delta: Stop
    usage: MessageUsage


class MessageStop(msgspec.Struct, tag="message_stop"):
    """The answer is complete."""


StreamEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class TokenCount(msgspec.Struct):
    """Tokens of the prompt that a request makes."""

    input_tokens: int


class ModelInfo(msgspec.Struct, kw_only=True):
    """A served model. The limits are null if nobody knows; prompt and answer share the first one."""

    type: str = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: str = "active"
    max_input_tokens: int | None
    max_tokens: int | None


class ModelPage(msgspec.Struct):
    """Some of the served models."""

    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None
