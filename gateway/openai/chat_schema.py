"""Request body of the chat API: the fields that chats have beside those of all generations."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.openai.functions import FunctionChoice, take_calls, tools_of
from gateway.openai.messages import ChatMessage, check_messages
from gateway.openai.schema import UINT32, GenerationRequest, check_common, check_ranges, decode
from gateway.openai.template_kwargs import check_template_kwargs
from gateway.openai.tools import Function, Tool, ToolChoice, check_tools
from mesh.errors import invalid, unsupported

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class ChatRequest(GenerationRequest, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/chat/completions. Ranges are checked by `check`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    # The form that tools had before.
    functions: list[Function] | None = None
    function_call: FunctionChoice | None = None

    # Extensions that users of other open servers expect.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None
    separate_reasoning: bool | None = None

    # Accepted; they change nothing here.
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    modalities: list[str] | None = None
    verbosity: str | None = None

    # Known to the API, not served: refused by name unless null.
    audio: None = None
    moderation: None = None
    web_search_options: None = None

    @property
    def has_images(self) -> bool:
        """Whether a message shows an image."""
        return any(
            part.type == "image_url"
            for message in self.messages
            for part in message.content or ()
            if not isinstance(part, str)
        )

    @property
    def is_constrained(self) -> bool:
        """Whether the answer is held to a grammar that the client gave."""
        wanted = self.response_format
        return self.structured_outputs is not None or (wanted is not None and wanted.type != "text")


# Fields that are accepted and change nothing; the values of some are limited to those that ask for nothing.
WITHOUT_EFFECT: Final = (
    "user",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",
    "modalities",
    "verbosity",
)

_decoder = msgspec.json.Decoder(ChatRequest)
CHAT_RANGES: Final = (("max_completion_tokens", 1, UINT32), ("top_logprobs", 0, 20))


def parse_chat(body: bytes) -> ChatRequest:
    """Decode and check a body. Raises MeshError (invalid_request, unsupported) naming field, limit and value."""
    request = decode(_decoder, body)
    check(request)
    return request


def check(request: ChatRequest) -> None:
    """The limits. Raises MeshError."""
    take_calls(request.messages)
    _take_functions(request)
    check_messages(request.messages)
    check_common(request)
    check_ranges(request, CHAT_RANGES)
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", f"'top_logprobs' ({request.top_logprobs}) needs 'logprobs' to be true")
    check_tools(request.tools, request.tool_choice)
    _check_against_constraint(request)
    _check_prompt(request)
    _check_without_effect(request)


def _take_functions(request: ChatRequest) -> None:
    """Put functions where tools are. One is called at a time."""
    if request.functions is None:
        if request.function_call is not None:
            raise invalid("function_call", "'function_call' needs 'functions'")
        return
    for name in ("tools", "tool_choice", "parallel_tool_calls"):
        if getattr(request, name) is not None:
            raise invalid("functions", f"'functions' excludes '{name}'")
    request.tools, request.tool_choice = tools_of(request.functions, request.function_call)
    request.parallel_tool_calls = False


def _check_against_constraint(request: ChatRequest) -> None:
    """An answer can be held to one grammar: that of the calls that it must make, or another one."""
    forced = request.tool_choice not in (None, "auto", "none")
    wanted = request.response_format
    if forced and wanted is not None and wanted.type != "text":
        raise invalid("tool_choice", f"'tool_choice' that demands a call excludes 'response_format' {wanted.type}")
    if forced and request.structured_outputs is not None:
        raise invalid("tool_choice", "'tool_choice' that demands a call excludes 'structured_outputs'")


def _check_prompt(request: ChatRequest) -> None:
    effort = request.reasoning_effort
    if effort is not None and effort not in EFFORTS:
        text = f"'reasoning_effort' must be one of {', '.join(EFFORTS)}, not '{effort[:64]}'"
        raise invalid("reasoning_effort", text)
    check_template_kwargs(request.chat_template_kwargs)
    if request.continue_final_message and request.add_generation_prompt:
        raise invalid("continue_final_message", "'continue_final_message' excludes 'add_generation_prompt'")
    if request.continue_final_message and request.messages[-1].role != "assistant":
        text = f"'continue_final_message' needs a last message of assistant, not of {request.messages[-1].role}"
        raise invalid("continue_final_message", text)


def _check_without_effect(request: ChatRequest) -> None:
    """Values of otherwise harmless fields that ask for something which is not served."""
    if request.service_tier not in (None, "auto", "default"):
        raise unsupported("service_tier", f"'service_tier' must be auto or default, not '{request.service_tier}'")
    if request.modalities is not None and request.modalities != ["text"]:
        raise unsupported("modalities", f"'modalities' must be [\"text\"], not {request.modalities}")
    if request.verbosity not in (None, "medium"):
        raise unsupported("verbosity", f"'verbosity' must be medium, not '{request.verbosity}'")
    check_metadata(request.metadata or {})


def check_metadata(metadata: dict[str, str]) -> None:
    """Raise MeshError for pairs beyond the limits."""
    if len(metadata) > 16:
        raise invalid("metadata", f"'metadata' must have at most 16 entries, not {len(metadata)}")
    for key, value in metadata.items():
        if len(key) > 64 or len(value) > 512:
            raise invalid(
                "metadata",
                f"'metadata' must have keys of at most 64 characters and values of at most 512, "
                f"not {len(key)} and {len(value)}",
            )
        if "\0" in key or "\0" in value:
            raise invalid("metadata", "'metadata' must not hold the character U+0000, which not every store can keep")
