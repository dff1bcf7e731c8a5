"""Request bodies of the Messages API: one typed decode, then the limits that types cannot say.

As in OpenAI's API, what cannot be honoured is refused by name, and `null` equals "absent".
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from gateway.anthropic.content import CacheControl, MessageParam, TextBlock, check_messages
from gateway.openai.messages import MAX_MESSAGES
from gateway.openai.schema import MAX_STOP_CHARACTERS, UINT32, decode
from gateway.openai.tools import MAX_TOOLS
from mesh.errors import invalid, out_of_range, unsupported

# As many as workers take.
MAX_STOP_SEQUENCES: Final = 64
LEAST_THINKING: Final = 1024
MESSAGES_RANGES: Final = (
    ("max_tokens", 1, UINT32),
    ("temperature", 0, 1),
    ("top_p", 0, 1),
    ("top_k", 0, 2**31 - 1),
)
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolParam(msgspec.Struct, forbid_unknown_fields=True):
    """A function that the model may call. Tools that Anthropic's servers run, or whose schema they know, are refused.

    `eager_input_streaming` changes nothing: input always comes as the model writes it.
    """

    name: str
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    input_examples: None = None


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    """Whether a tool must be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the model thinks before it answers, and whether the client sees it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON schema that the answer is held to."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How the answer is to be. `effort` is told to templates that read it."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class ContextEdit(msgspec.Struct, forbid_unknown_fields=True):
    """What the server is to leave away of a long conversation: nothing."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"]


class ContextManagement(msgspec.Struct, forbid_unknown_fields=True):
    """Edits of the conversation."""

    edits: list[ContextEdit] | None = None


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    """Facts about the request."""

    user_id: str | None = None


class CountRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/messages/count_tokens: what of a request makes its prompt."""

    model: str
    messages: list[MessageParam]
    system: str | list[TextBlock] | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    # As `output_config.format`, by which it was replaced.
    output_format: JsonFormat | None = None

    # Accepted; they change nothing here, but for values that ask for something which is not served.
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    speed: Literal["standard"] | None = None

    # Known to the API, not served: refused by name unless null.
    mcp_servers: None = None
    user_profile_id: None = None
    workspace_id: None = None

    @property
    def format(self) -> JsonFormat | None:
        """The schema that the answer is held to."""
        return self.output_config.format if self.output_config and self.output_config.format else self.output_format

    @property
    def thinks(self) -> bool:
        """Whether the model is to think, and the client sees that it does."""
        return self.thinking is not None and self.thinking.type != "disabled"


class MessagesRequest(CountRequest, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/messages. Ranges are checked by `parse_messages`."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    # Accepted; they change nothing here.
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    # Known to the API, not served: refused by name unless null.
    compaction: None = None
    container: None = None
    diagnostics: None = None
    fallbacks: None = None
    inference_geo: None = None
    thread: None = None


# Values that are taken, where neither a range nor a type of few values says it.
COUNT_VALUES: Final = {
    "context_management": "edits that leave all thinking in place",
    "messages": f"1 to {MAX_MESSAGES}: text, images by bytes or URL, documents of plain text, calls and their results, "
    "thinking",
    "output_config": "`effort`, `format`",
    "output_format": "as `output_config.format`",
    "speed": "standard",
    "thinking": f"`budget_tokens` from {LEAST_THINKING} to below `max_tokens`",
    "tools": f"at most {MAX_TOOLS}, with a schema",
}
VALUES: Final = {**COUNT_VALUES, "stop_sequences": f"at most {MAX_STOP_SEQUENCES}"}
COUNT_WITHOUT_EFFECT: Final = ("cache_control", "context_management", "speed")
WITHOUT_EFFECT: Final = (*COUNT_WITHOUT_EFFECT, "metadata", "service_tier")

_messages = msgspec.json.Decoder(MessagesRequest)
_count = msgspec.json.Decoder(CountRequest)


def parse_messages(body: bytes) -> MessagesRequest:
    """Decode and check a body. Raises MeshError (invalid_request, unsupported) naming field, limit and value."""
    request = decode(_messages, body)
    for name, low, high in MESSAGES_RANGES:
        value: float | None = getattr(request, name)
        if value is not None and not low <= value <= high:
            raise out_of_range(name, value, low, high)
    _check_stops(request.stop_sequences or ())
    _check(request)
    budget = request.thinking.budget_tokens if request.thinking is not None else None
    if budget is not None and budget >= request.max_tokens:
        param = "thinking.budget_tokens"
        raise invalid(param, f"'{param}' must be less than 'max_tokens' ({request.max_tokens}), not {budget}")
    return request


def parse_count(body: bytes) -> CountRequest:
    """The same for a request to count."""
    request = decode(_count, body)
    _check(request)
    return request


def _check(request: CountRequest) -> None:
    check_messages(request.messages)
    _check_tools(request.tools or ())
    if request.tool_choice is not None:
        _check_choice({tool.name for tool in request.tools or ()}, request.tool_choice)
    if request.thinking is not None:
        _check_thinking(request.thinking)
    if request.output_format is not None and request.output_config is not None and request.output_config.format:
        raise invalid("output_format", "'output_format' excludes 'output_config.format'")


def _check_stops(texts: list[str] | tuple[()]) -> None:
    name = "stop_sequences"
    if len(texts) > MAX_STOP_SEQUENCES:
        raise invalid(name, f"'{name}' must have at most {MAX_STOP_SEQUENCES} strings, not {len(texts)}")
    for text in texts:
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            limit = f"1 to {MAX_STOP_CHARACTERS} characters"
            raise invalid(name, f"each string of '{name}' must have {limit}, not {len(text)}")


def _check_tools(tools: list[ToolParam] | tuple[()]) -> None:
    names: set[str] = set()
    if len(tools) > MAX_TOOLS:
        raise invalid("tools", f"'tools' must hold at most {MAX_TOOLS} tools, not {len(tools)}")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.type not in (None, "custom"):
            raise unsupported(f"{where}.type", f"'{where}.type' must be custom, not '{tool.type[:64]}'")
        if tool.input_schema is None:
            raise invalid(f"{where}.input_schema", f"'{where}.input_schema' is required")
        if not _TOOL_NAME.fullmatch(tool.name):
            text = f"'{where}.name' must have 1 to 64 letters, digits, underscores and dashes, not '{tool.name[:80]}'"
            raise invalid(f"{where}.name", text)
        if tool.name in names:
            raise invalid(f"{where}.name", f"'{where}.name' is '{tool.name}', as another tool's")
        names.add(tool.name)


def _check_choice(names: set[str], choice: ToolChoice) -> None:
    if choice.type in ("any", "tool") and not names:
        raise invalid("tool_choice", "'tool_choice' needs 'tools'")
    if choice.type == "tool" and choice.name not in names:
        text = f"'tool_choice.name' must be one of 'tools', not '{(choice.name or '')[:80]}'"
        raise invalid("tool_choice.name", text)
    if choice.type != "tool" and choice.name is not None:
        raise invalid("tool_choice.name", "'tool_choice.name' needs the type tool")


def _check_thinking(thinking: Thinking) -> None:
    param, budget = "thinking.budget_tokens", thinking.budget_tokens
    if thinking.type != "enabled":
        if budget is not None:
            raise invalid(param, f"'{param}' needs the type enabled, not {thinking.type}")
    elif budget is None:
        raise invalid(param, f"'{param}' is required with the type enabled")
    elif budget < LEAST_THINKING:
        raise invalid(param, f"'{param}' must be at least {LEAST_THINKING}, not {budget}")
