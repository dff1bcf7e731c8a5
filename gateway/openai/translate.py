"""From OpenAI's request to the mesh's: pure functions. What the client left unset stays unset, except the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.openai.chat_schema import ChatRequest
from gateway.openai.completion_schema import CompletionRequest
from gateway.openai.messages import ChatMessage
from gateway.openai.schema import INT64, GenerationRequest, stops
from gateway.openai.tools import allowed, named
from mesh.v1 import inference_pb2 as pb

# What OpenAI's completion API generates if no length is asked for.
DEFAULT_COMPLETION_TOKENS = 16
_NONE: Mapping[tuple[int, int], pb.Image] = {}


def draw_seed(prompt: int) -> int:
    """A random seed, whatever the prompt's number."""
    return random.randrange(INT64)


def to_generate(
    request: ChatRequest,
    request_id: str,
    *,
    draw: Callable[[int], int] = draw_seed,
    images: Mapping[tuple[int, int], pb.Image] = _NONE,
) -> pb.GenerateRequest:
    """The request for a worker. `images` are those of the request by message and part.

    A request without a seed gets one (from `draw`, by the number of its prompt) here and not on the worker, so that
    every attempt draws the same numbers.
    """
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    wire = _common(request, request_id, limit, draw(0))
    for index, message in enumerate(request.messages):
        own = {place: image for (other, place), image in images.items() if other == index}
        _add_message(wire.chat.messages.add(), message, own)
    if request.logprobs:
        wire.output.logprobs = request.top_logprobs or 0
    _set_template(wire.chat, request)
    _add_tools(wire.chat, request)
    return wire


_MODES = {"auto": pb.ToolChoice.MODE_AUTO, "none": pb.ToolChoice.MODE_NONE, "required": pb.ToolChoice.MODE_REQUIRED}


def _add_tools(wire: pb.ChatPrompt, request: ChatRequest) -> None:
    may_call = allowed(request.tools, request.tool_choice)
    for function in may_call.functions:
        tool = wire.tools.add(name=function.name, description=function.description or "", strict=bool(function.strict))
        if function.parameters is not None:
            tool.parameters_json = _json(function.parameters)
    if not may_call.functions:
        return
    name = named(request.tool_choice)
    wire.tool_choice.mode = pb.ToolChoice.MODE_NAMED if name else _MODES[may_call.mode]
    wire.tool_choice.name = name
    wire.single_call = request.parallel_tool_calls is False


def _set_template(wire: pb.ChatPrompt, request: ChatRequest) -> None:
    """What the chat template is given besides messages and tools."""
    if request.chat_template_kwargs:
        wire.template_arguments.update(request.chat_template_kwargs)
    if request.add_generation_prompt is not None:
        wire.add_generation_prompt = request.add_generation_prompt
    wire.continue_final_message = bool(request.continue_final_message)
    wire.chat_template = request.chat_template or ""
    wire.reasoning_effort = request.reasoning_effort or ""


def to_generates(
    request: CompletionRequest, request_id: str, *, draw: Callable[[int], int] = draw_seed
) -> list[pb.GenerateRequest]:
    """The requests for workers, one for each prompt; several get numbered ids. Seeds as in `to_generate`."""
    limit = DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    wires: list[pb.GenerateRequest] = []
    for index, prompt in enumerate(request.prompts):
        own_id = request_id if len(request.prompts) == 1 else f"{request_id}-{index}"
        wire = _common(request, own_id, limit, draw(index))
        if isinstance(prompt, str):
            wire.text = prompt
        else:
            wire.tokens.ids.extend(prompt)
        if request.best_of is not None:
            wire.sampling.best_of = request.best_of
        if request.logprobs is not None:
            wire.output.logprobs = request.logprobs
        if request.echo:
            wire.output.echo = True
            if request.logprobs is not None:
                # The echoed prompt has log probabilities like the rest.
                wire.output.prompt_logprobs = max(request.logprobs, request.prompt_logprobs or 0)
        wires.append(wire)
    return wires


def _common(request: GenerationRequest, request_id: str, limit: int | None, seed: int) -> pb.GenerateRequest:
    """All but the prompt and what is reported of the answer. `limit`: the most tokens of a choice; `seed`: if the
    client gave none."""
    wire = pb.GenerateRequest(request_id=request_id, model=request.model)
    _set_sampling(wire.sampling, request)
    if limit is not None:
        wire.sampling.max_tokens = limit
    if request.seed is not None:
        wire.sampling.seed = request.seed
    else:
        wire.sampling.seed = seed
        wire.sampling.drawn_seed = True
    if request.prompt_logprobs is not None:
        wire.output.prompt_logprobs = request.prompt_logprobs
    if request.return_token_ids:
        wire.output.prompt_token_ids = True
    wire.cache_salt = request.cache_salt or ""
    constraint = _constraint(request)
    if constraint is not None:
        wire.constraint.CopyFrom(constraint)
    return wire


def _constraint(request: GenerationRequest) -> pb.Constraint | None:
    wanted, other = request.response_format, request.structured_outputs
    if wanted is not None and wanted.json_schema is not None:
        return pb.Constraint(json_schema=_json(wanted.json_schema.schema))
    if (wanted is not None and wanted.type == "json_object") or (other is not None and other.json_object):
        return pb.Constraint(json_object=True)
    if other is None:
        return None
    if other.json is not None:
        return pb.Constraint(json_schema=other.json if isinstance(other.json, str) else _json(other.json))
    if other.choice is not None:
        return pb.Constraint(choice=pb.Choice(texts=other.choice))
    return pb.Constraint(regex=other.regex) if other.regex is not None else pb.Constraint(grammar=other.grammar or "")


def _json(schema: dict[str, Any]) -> str:
    # In the client's order of properties, which is the order in which the model writes them.
    return msgspec.json.encode(schema).decode()


def _add_message(wire: pb.ChatMessage, message: ChatMessage, images: Mapping[int, pb.Image]) -> None:
    wire.role = message.role
    if isinstance(message.content, str):
        wire.parts.add().text = message.content
    else:
        for place, part in enumerate(message.content or ()):
            if place in images:
                wire.parts.add().image.CopyFrom(images[place])
            else:
                wire.parts.add().text = part.text or part.refusal or ""
    wire.name = message.name or ""
    wire.tool_call_id = message.tool_call_id or ""
    wire.reasoning = message.reasoning or message.reasoning_content or ""
    for call in message.tool_calls or ():
        wire.tool_calls.add(id=call.id, name=call.function.name, arguments_json=call.function.arguments)


# Fields with the same name, unit and default on both sides.
_SAME = (
    "temperature",
    "frequency_penalty",
    "presence_penalty",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "min_tokens",
    "n",
)


def _set_sampling(wire: pb.SamplingOptions, request: GenerationRequest) -> None:
    for name in _SAME:
        value = getattr(request, name)
        if value is not None:
            setattr(wire, name, value)
    if request.top_p == 0:
        wire.temperature = 0  # a mass of nothing is the most likely token, which the wire calls temperature 0
    elif request.top_p is not None:
        wire.top_p = request.top_p
    wire.ignore_eos = bool(request.ignore_eos)
    wire.keep_special_tokens = request.skip_special_tokens is False
    wire.include_stop = bool(request.include_stop_str_in_output)
    wire.stop.extend(stops(request))
    wire.stop_token_ids.extend(request.stop_token_ids or ())
    for token, bias in (request.logit_bias or {}).items():
        wire.logit_bias[int(token)] = bias
