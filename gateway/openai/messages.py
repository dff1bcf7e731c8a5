"""The messages of a chat request, and their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mesh.errors import invalid, unsupported

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
# While a request is read nobody else's tokens are passed on: a quarter of a million messages took seconds.
MAX_MESSAGES: Final = 10_000


class ImageUrl(msgspec.Struct, forbid_unknown_fields=True):
    """Where an image is: a data, http or https URL."""

    url: str
    detail: str | None = None


class ContentPart(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of a message's content: `text`, `refusal` or `image_url`. Others are known in order to be refused."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None
    input_audio: Any = None
    file: Any = None
    refusal: str | None = None
    prompt_cache_breakpoint: Any = None


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    """A function's name and its arguments as JSON text."""

    name: str
    arguments: str = "{}"
    # What OpenAI's client has made of them, and sends back with its own answer.
    parsed_arguments: Any = None


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    """A call that the assistant made in an earlier turn."""

    id: str
    function: FunctionCall
    type: str = "function"
    index: int | None = None


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message of the conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    # Empty lists and nulls that answers carry and clients send back.
    annotations: list[Any] | None = None
    audio: None = None
    function_call: FunctionCall | None = None  # the earlier form of a call: see gateway.openai.functions
    parsed: Any = None


def check_messages(messages: Sequence[ChatMessage]) -> None:
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise invalid("messages", f"'messages' must hold 1 to {MAX_MESSAGES} messages, not {len(messages)}")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role not in ROLES:
            raise invalid(
                f"{where}.role", f"'{where}.role' must be one of {', '.join(ROLES)}, not '{message.role[:64]}'"
            )
        if message.role == "tool" and not message.tool_call_id:
            raise invalid(f"{where}.tool_call_id", f"'{where}.tool_call_id' is required in a message of role tool")
        if message.tool_calls and message.role != "assistant":
            raise invalid(f"{where}.tool_calls", f"'{where}.tool_calls' needs the role assistant, not {message.role}")
        for place, call in enumerate(message.tool_calls or ()):
            if call.type != "function":
                raise unsupported(f"{where}.tool_calls[{place}].type")
        if isinstance(message.content, list):
            _check_parts(f"{where}.content", message.content, images=message.role in ("user", "tool"))
        elif message.content is None and message.role != "assistant":
            raise invalid(f"{where}.content", f"'{where}.content' may be null in a message of role assistant only")


def _check_parts(where: str, parts: Sequence[ContentPart], *, images: bool) -> None:
    if not parts:
        raise invalid(where, f"'{where}' must hold at least one part")
    for index, part in enumerate(parts):
        if part.type not in ("text", "refusal", "image_url"):
            param = f"{where}[{index}].type"
            raise unsupported(param, f"'{param}' must be text or image_url, not '{part.type[:64]}'")
        if getattr(part, part.type) is None:
            raise invalid(f"{where}[{index}].{part.type}", f"'{where}[{index}].{part.type}' is required")
        if part.type == "image_url":
            _check_image(f"{where}[{index}]", part.image_url, allowed=images)


def _check_image(where: str, image: ImageUrl | str | None, *, allowed: bool) -> None:
    if not allowed:
        raise unsupported(f"{where}.type", f"'{where}.type' may be image_url in a message of role user or tool only")
    if isinstance(image, ImageUrl) and image.detail not in (None, "auto", "low", "high"):
        param = f"{where}.image_url.detail"
        raise invalid(param, f"'{param}' must be auto, low or high, not '{image.detail[:64]}'")
