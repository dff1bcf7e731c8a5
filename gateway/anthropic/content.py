"""What messages of a request hold: blocks of content, and their limits.

Blocks that are none of these, and fields that are not theirs, are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from gateway.openai.messages import MAX_MESSAGES
from mesh.errors import invalid, unsupported


class CacheControl(msgspec.Struct, forbid_unknown_fields=True):
    """Where Anthropic would cut its cache. Accepted without effect: workers cache every prefix by themselves."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: str | None = None


class Citations(msgspec.Struct, forbid_unknown_fields=True):
    """Whether answers cite a document: no model here does."""

    enabled: Literal[False] | None = None


class TextBlock(msgspec.Struct, forbid_unknown_fields=True, tag="text"):
    """Text."""

    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class Base64Image(msgspec.Struct, forbid_unknown_fields=True, tag="base64"):
    """An image by its bytes."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlImage(msgspec.Struct, forbid_unknown_fields=True, tag="url"):
    """An image by its address."""

    url: str


class ImageBlock(msgspec.Struct, forbid_unknown_fields=True, tag="image"):
    """An image."""

    source: Base64Image | UrlImage
    cache_control: CacheControl | None = None
    transformations: None = None


class PlainText(msgspec.Struct, forbid_unknown_fields=True, tag="text"):
    """A document's text."""

    data: str
    media_type: Literal["text/plain"] = "text/plain"


class DocumentBlock(msgspec.Struct, forbid_unknown_fields=True, tag="document"):
    """A document of plain text, which the model sees below its title and context. Other documents are refused."""

    source: PlainText
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None
    citations: Citations | None = None


class Caller(msgspec.Struct, forbid_unknown_fields=True):
    """Who made a call: the model itself."""

    type: Literal["direct"]


class ToolUseBlock(msgspec.Struct, forbid_unknown_fields=True, tag="tool_use"):
    """A call that the assistant made in an earlier turn."""

    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Caller | None = None
    toolset_name: None = None


class ToolResultBlock(msgspec.Struct, forbid_unknown_fields=True, tag="tool_result"):
    """What a call came to. Templates have no mark for errors: the content alone tells of one."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


class ThinkingBlock(msgspec.Struct, forbid_unknown_fields=True, tag="thinking"):
    """The assistant's reasoning in an earlier turn, for templates that take it. Signatures are not checked."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(msgspec.Struct, forbid_unknown_fields=True, tag="redacted_thinking"):
    """Reasoning that only another provider could read: the model here does not see it."""

    data: str


Shown = TextBlock | ImageBlock | DocumentBlock
"""What is shown to the model as it is."""
Block = Shown | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock


class MessageParam(msgspec.Struct, forbid_unknown_fields=True):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    @property
    def blocks(self) -> Sequence[Block]:
        """Its content as blocks."""
        return [TextBlock(self.content)] if isinstance(self.content, str) else self.content


_ALLOWED: Final = {
    "user": (TextBlock, ImageBlock, DocumentBlock, ToolResultBlock),
    "assistant": (TextBlock, ToolUseBlock, ThinkingBlock, RedactedThinkingBlock),
    "system": (TextBlock,),
}


def check_messages(messages: Sequence[MessageParam]) -> None:
    """The limits. Raises MeshError naming the field."""
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise invalid("messages", f"'messages' must hold 1 to {MAX_MESSAGES} messages, not {len(messages)}")
    for index, message in enumerate(messages):
        where = f"messages[{index}].content"
        if not message.blocks and message.role != "assistant":
            raise invalid(where, f"'{where}' must hold at least one block")
        for place, block in enumerate(message.blocks):
            _check_block(f"{where}[{place}]", message.role, block)
    last = messages[-1]
    if any(isinstance(block, ToolUseBlock) for block in last.blocks):
        raise invalid("messages", "'messages' must go on with the results of the last message's calls")
    if last.role == "assistant" and not any(isinstance(block, TextBlock) and block.text for block in last.blocks):
        raise invalid("messages", "'messages' must not end with a message of assistant that has no text to go on with")


def _check_block(where: str, role: str, block: Block) -> None:
    if type(block) not in _ALLOWED[role]:
        kind = block.__struct_config__.tag
        raise unsupported(f"{where}.type", f"'{where}.type' cannot be {kind} in a message of role {role}")
    if isinstance(block, ToolResultBlock) and not block.tool_use_id:
        raise invalid(f"{where}.tool_use_id", f"'{where}.tool_use_id' must not be empty")
    if isinstance(block, ToolUseBlock) and not block.id:
        raise invalid(f"{where}.id", f"'{where}.id' must not be empty")
