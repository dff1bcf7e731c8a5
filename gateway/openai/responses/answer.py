"""The response as clients get it: its fields in OpenAI's order, all of them always."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import ErrorAnswer
from gateway.openai.responses.schema import ReasoningOptions, ResponseRequest, TextOptions
from gateway.openai.responses.tools import Toolbox
from mesh.v1 import inference_pb2 as pb


class InputDetails(msgspec.Struct):
    """Of the input's tokens, those that came from the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """Of the output's tokens, those of the reasoning and its marks."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class ResponseBody(msgspec.Struct, kw_only=True):
    """A response, as far as it has come. Items are what `items.kept` makes of them."""

    id: str
    object: str = "response"
    created_at: int
    status: str = "in_progress"
    background: bool
    completed_at: int | None = None
    conversation: dict[str, str] | None
    error: ResponseError | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[dict[str, Any]] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


class ResponseEvent(msgspec.Struct, kw_only=True):
    """An event of a stream. Which fields it has beside the first two is told by its type."""

    type: str
    sequence_number: int
    response: ResponseBody | msgspec.UnsetType = msgspec.UNSET
    output_index: int | msgspec.UnsetType = msgspec.UNSET
    item: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    item_id: str | msgspec.UnsetType = msgspec.UNSET
    content_index: int | msgspec.UnsetType = msgspec.UNSET
    summary_index: int | msgspec.UnsetType = msgspec.UNSET
    part: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    delta: str | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


def begun(request: ResponseRequest, toolbox: Toolbox, response_id: str, created: int, *, store: bool) -> ResponseBody:
    """The response to a request before the model has said anything. Values that the model's own defaults decide are
    shown as OpenAI's defaults."""
    conversation = request.conversation_id
    return ResponseBody(
        id=response_id,
        created_at=created,
        status="queued" if request.background else "in_progress",
        background=bool(request.background),
        conversation=None if conversation is None else {"id": conversation},
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        model=request.model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        prompt_cache_retention=request.prompt_cache_retention,
        reasoning=_reasoning(request.reasoning or ReasoningOptions()),
        safety_identifier=request.safety_identifier,
        store=store,
        temperature=1.0 if request.temperature is None else request.temperature,
        text=_text(request.text or TextOptions()),
        tool_choice=msgspec.to_builtins(request.tool_choice or "auto"),
        tools=toolbox.shown,
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        user=request.user,
        metadata=request.metadata or {},
    )


def _reasoning(options: ReasoningOptions) -> dict[str, Any]:
    return {"effort": options.effort, "summary": options.summary or options.generate_summary}


def _text(options: TextOptions) -> dict[str, Any]:
    wanted = {"type": "text"} if options.format is None else msgspec.to_builtins(options.format)
    return {"format": wanted, "verbosity": options.verbosity or "medium"}


def response_usage(counts: pb.Usage, reasoning_tokens: int) -> ResponseUsage:
    """Token counts as this API has them."""
    return ResponseUsage(
        counts.prompt_tokens,
        InputDetails(counts.cached_tokens),
        counts.completion_tokens,
        OutputDetails(reasoning_tokens),
        counts.prompt_tokens + counts.completion_tokens,
    )


def response_error(failure: ErrorAnswer) -> ResponseError:
    """An error with one of the codes that this API knows."""
    code = "server_error"
    if failure.status == 429:
        code = "rate_limit_exceeded"
    elif failure.status < 500:
        code = "invalid_prompt"
    return ResponseError(code, failure.error.message)
