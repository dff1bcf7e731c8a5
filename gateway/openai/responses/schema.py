"""Request body of the Responses API, and its limits that chats do not have."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.openai.chat_schema import check_metadata
from gateway.openai.responses.items import Item, check_items
from gateway.openai.responses.tools import ResponseChoice
from gateway.openai.schema import UINT32, JsonSchemaFormat, ResponseFormat, StreamOptions, decode
from mesh.errors import invalid, out_of_range, unsupported

LEAST_OUTPUT_TOKENS: Final = 16
LOGPROBS: Final = "message.output_text.logprobs"
ENCRYPTED: Final = "reasoning.encrypted_content"
# Those that ask for more of tools which cannot be used here add nothing.
INCLUDABLE: Final = (
    LOGPROBS,
    ENCRYPTED,
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)


class TextFormat(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The kind of answer: text, json_object or json_schema."""

    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the text of the answer is like."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How much the model is to think, and how its reasoning is told: `summary` as the parts of a summary."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None

    @property
    def told_as_summary(self) -> bool:
        """Whether the reasoning is told as a summary."""
        return (self.summary or self.generate_summary) is not None


class ConversationName(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation by its id."""

    id: str


class ResponseQuestion(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/responses/input_tokens: what makes the prompt. What it shares with chats is checked there."""

    model: str
    input: str | list[Item] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationName | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | ResponseChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # Known to the API, not served: refused by name unless null.
    personality: None = None

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it belongs to."""
        return self.conversation.id if isinstance(self.conversation, ConversationName) else self.conversation


class ResponseRequest(ResponseQuestion, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/responses."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None

    # Extensions, as on chats.
    seed: int | None = None
    stop: str | list[str] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None

    # Accepted; they change nothing here.
    user: str | None = None
    max_tool_calls: int | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    client_metadata: dict[str, Any] | None = None

    # Known to the API, not served: refused by name unless null.
    prompt: None = None
    moderation: None = None
    context_management: None = None
    access_programs: None = None
    background_options: None = None
    image: None = None

    @property
    def includes(self) -> frozenset[str]:
        """What is to be in the answer beside the usual."""
        return frozenset(self.include or ())

    @property
    def with_logprobs(self) -> bool:
        """Whether the answer has log probabilities."""
        return LOGPROBS in self.includes or bool(self.top_logprobs)


RESPONSE_RANGES: Final = (
    ("max_output_tokens", LEAST_OUTPUT_TOKENS, UINT32),
    ("top_logprobs", 0, 20),
    ("max_tool_calls", 1, UINT32),
)
RESPONSE_WITHOUT_EFFECT: Final = (
    "user",
    "max_tool_calls",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "client_metadata",
)
_questions = msgspec.json.Decoder(ResponseQuestion)
_requests = msgspec.json.Decoder(ResponseRequest)


def parse_question(body: bytes) -> ResponseQuestion:
    """Decode a body and check what chats do not have. Raises MeshError (invalid_request, unsupported)."""
    question = decode(_questions, body)
    _check_question(question)
    return question


def parse_response(body: bytes) -> ResponseRequest:
    """The same for a whole request."""
    request = decode(_requests, body)
    _check_question(request)
    for name, low, high in RESPONSE_RANGES:
        value: int | None = getattr(request, name)
        if value is not None and not low <= value <= high:
            raise out_of_range(name, value, low, high)
    check_metadata(request.metadata or {})
    _check_options(request)
    return request


def _check_question(question: ResponseQuestion) -> None:
    if isinstance(question.input, list):
        check_items(question.input)
    if question.previous_response_id is not None and question.conversation is not None:
        raise invalid("previous_response_id", "'previous_response_id' excludes 'conversation'")
    if question.input is None and question.previous_response_id is None and question.conversation is None:
        raise invalid("input", "'input' is required without 'previous_response_id' and 'conversation'")
    if question.truncation not in (None, "disabled"):
        text = f"'truncation' must be disabled, not '{question.truncation[:64]}': nothing of the input is left out here"
        raise unsupported("truncation", text)
    _check_reasoning(question.reasoning or ReasoningOptions())


def _check_reasoning(reasoning: ReasoningOptions) -> None:
    for name in ("summary", "generate_summary"):
        value: str | None = getattr(reasoning, name)
        if value not in (None, "auto", "detailed"):
            text = f"'reasoning.{name}' must be auto or detailed, not '{value[:64]}': the reasoning is told as it is"
            raise unsupported(f"reasoning.{name}", text)
    for name, allowed in (("context", "auto"), ("mode", "standard")):
        value = getattr(reasoning, name)
        if value not in (None, allowed):
            raise unsupported(f"reasoning.{name}", f"'reasoning.{name}' must be {allowed}, not '{value[:64]}'")


def _check_options(request: ResponseRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "'stream_options' needs 'stream' to be true")
    for name in ("include_usage", "continuous_usage_stats"):
        if getattr(request.stream_options, name, None) is not None:
            raise unsupported(f"stream_options.{name}", f"'stream_options.{name}' is for chats: events have the usage")
    for name in ("background", "conversation"):
        if request.store is False and getattr(request, name):
            raise invalid(name, f"'{name}' needs 'store', which is false")
    for value in request.include or ():
        if value not in INCLUDABLE:
            raise invalid("include", f"'include' must hold {', '.join(INCLUDABLE)} only, not '{value[:80]}'")
    if request.service_tier not in (None, "auto", "default"):
        raise unsupported("service_tier", f"'service_tier' must be auto or default, not '{request.service_tier[:64]}'")


def chat_format(options: TextOptions | None) -> ResponseFormat | None:
    """The kind of answer as chats have it. Raises MeshError for a schema without its name."""
    if options is None or options.format is None:
        return None
    wanted = options.format
    if wanted.type != "json_schema":
        return ResponseFormat(wanted.type)
    for name in ("name", "schema"):
        if getattr(wanted, name) is None:
            raise invalid(f"text.format.{name}", f"'text.format.{name}' is required with the type json_schema")
    schema = JsonSchemaFormat(wanted.name or "", wanted.schema or {}, wanted.description, wanted.strict)
    return ResponseFormat("json_schema", schema)
