"""From wire to engine: checks every field of a request and builds the engine's own objects. Pure; no I/O.

Limits and defaults are those that inference.proto documents. A value out of its limits raises MeshError naming field,
limit and value; what is well formed but beyond an engine is left to the engine's `submit`, which refuses it by name.
"""

from __future__ import annotations

import json
import math
import secrets
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from google.protobuf import json_format, struct_pb2

from mesh.dialects import UNKNOWN
from mesh.engine.base import (
    CallRule,
    Chat,
    Constraint,
    Image,
    Message,
    ModelInfo,
    Output,
    Progress,
    Prompt,
    Request,
    Sampling,
    Text,
    TextPair,
    Tokens,
    Tool,
    ToolCall,
)
from mesh.errors import ErrorKind, MeshError, invalid, out_of_range, unsupported
from mesh.v1 import inference_pb2 as pb

MAX_CHOICES = 128
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
MAX_LOGIT_BIASES = 1024
MAX_LOGPROBS = 20
MAX_TOOL_NAME = 64
MAX_INPUTS = 2048
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# Inclusive limits of the plain numbers in SamplingOptions; None stands for "above 0".
_LIMITS: dict[str, tuple[float | None, float]] = {
    "temperature": (0, 100),
    "top_p": (None, 1),
    "min_p": (0, 1),
    "typical_p": (None, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0.01, 10),
}


def to_request(wire: pb.GenerateRequest, model: ModelInfo, *, key: int, credit: int | None = None) -> Request:
    """Build the engine's request for `model`. Raises MeshError. A seed is drawn if none is given."""
    expected = wire.expected_fingerprint
    if expected and expected != model.fingerprint:
        raise MeshError(
            ErrorKind.WRONG_MODEL,
            f"'expected_fingerprint' is {expected} but model '{model.name}' here has {model.fingerprint}",
            param="expected_fingerprint",
        )
    sampling = _sampling(wire.sampling, model)
    prompt = _prompt(wire, model)
    marked = prompt if wire.output.markup and isinstance(prompt, Chat) and model.dialect != UNKNOWN else None
    if marked is not None:
        # Without tools nobody reads calls, and their marks are as unwelcome as any special token.
        dialect = model.dialect if marked.tools else replace(model.dialect, tools="")
        sampling = replace(sampling, kept_tokens=dialect.tokens)
    return Request(
        key=key,
        request_id=wire.request_id or uuid.uuid4().hex,
        model=model.base or model.name,
        prompt=prompt,
        sampling=sampling,
        output=replace(_output(wire.output), prompt_end=marked is not None),
        constraint=_constraint(wire.constraint, reasoned=marked is not None) if wire.HasField("constraint") else None,
        resume=_resume(wire.resume, sampling.n, model),
        priority=_priority(wire),
        tenant=wire.tenant,
        cache_salt=wire.cache_salt,
        adapter=model.name if model.base is not None else None,
        credit=credit,
        deadline=time.monotonic() + wire.deadline_ms / 1000 if wire.HasField("deadline_ms") else None,
    )


def find_model(models: Sequence[ModelInfo], name: str, adapter: str = "") -> ModelInfo:
    """The served model of that name, or the only one when no name is given; raises MeshError.

    An adapter is found by its name as a model, or as an `adapter` of the model.
    """
    if adapter:
        return _find_adapter(models, name, adapter)
    bases = [model for model in models if model.base is None]
    if not name and len(bases) == 1:
        return bases[0]
    served = ", ".join(f"'{model.name}'" for model in models)
    if not name:
        raise invalid("model", f"'model' must be given: this worker serves {served}")
    for model in models:
        if model.name == name:
            return model
    raise MeshError(
        ErrorKind.MODEL_NOT_FOUND, f"model '{name}' is not served here; this worker serves {served}", param="model"
    )


def _find_adapter(models: Sequence[ModelInfo], name: str, adapter: str) -> ModelInfo:
    for model in models:
        if model.name == adapter and model.base is not None and name in ("", model.base, adapter):
            return model
    raise MeshError(
        ErrorKind.MODEL_NOT_FOUND, f"model '{name}' has no adapter '{adapter}' loaded on this worker", param="adapter"
    )


def to_chat(wire: pb.ChatPrompt) -> Chat:
    """Build a conversation; raises MeshError."""
    if not wire.messages:
        raise invalid("messages", "'messages' must hold at least one message")
    if wire.continue_final_message and wire.HasField("add_generation_prompt") and wire.add_generation_prompt:
        raise invalid("continue_final_message", "'continue_final_message' excludes 'add_generation_prompt'")
    opens_turn = wire.add_generation_prompt if wire.HasField("add_generation_prompt") else True
    return Chat(
        messages=tuple(_message(index, message) for index, message in enumerate(wire.messages)),
        tools=_tools(wire),
        call_rule=_call_rule(wire),
        reasoning_effort=_effort(wire.reasoning_effort),
        template_arguments=_struct(wire.template_arguments),
        template_hints=_struct(wire.template_hints),
        add_generation_prompt=opens_turn and not wire.continue_final_message,
        continue_final_message=wire.continue_final_message,
        chat_template=wire.chat_template or None,
    )


def _struct(wire: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as Python values. Its only numbers are doubles; whole ones become int, for templates that print them."""

    def value(given: Any) -> Any:
        match given:
            case float() if given.is_integer():
                return int(given)
            case dict():
                return {name: value(item) for name, item in cast("dict[str, Any]", given).items()}
            case list():
                return [value(item) for item in cast("list[Any]", given)]
            case _:
                return given

    return value(json_format.MessageToDict(wire))


def to_embed_inputs(wire: pb.EmbedRequest, model: ModelInfo) -> list[Text | Tokens]:
    """The inputs of an embedding request; raises MeshError."""
    if not 1 <= len(wire.inputs) <= MAX_INPUTS:
        raise invalid("inputs", f"'inputs' must hold 1 to {MAX_INPUTS} inputs, not {len(wire.inputs)}")
    if wire.HasField("dimensions") and wire.dimensions < 1:
        raise invalid("dimensions", f"'dimensions' must be at least 1, not {wire.dimensions}")
    return [_embed_input(index, item, model) for index, item in enumerate(wire.inputs)]


def to_classify_inputs(wire: pb.ClassifyRequest) -> list[Text | TextPair]:
    """The inputs of a request to classify; raises MeshError."""
    if not 1 <= len(wire.inputs) <= MAX_INPUTS:
        raise invalid("inputs", f"'inputs' must hold 1 to {MAX_INPUTS} inputs, not {len(wire.inputs)}")
    return [_classify_input(index, item) for index, item in enumerate(wire.inputs)]


def _classify_input(index: int, wire: pb.ClassifyInput) -> Text | TextPair:
    match wire.WhichOneof("input"):
        case "text":
            return Text(wire.text)
        case "pair":
            return TextPair(wire.pair.first, wire.pair.second)
        case _:
            raise invalid("inputs", f"'inputs[{index}]' must have a text or a pair")


def check_token_ids(param: str, ids: Collection[int], model: ModelInfo) -> None:
    """Refuse ids beyond the model's vocabulary, where that is known."""
    if model.vocab_size and ids and max(ids) >= model.vocab_size:
        raise out_of_range(param, max(ids), 0, model.vocab_size - 1)


def _embed_input(index: int, wire: pb.EmbedInput, model: ModelInfo) -> Text | Tokens:
    match wire.WhichOneof("input"):
        case "text":
            return Text(wire.text)
        case "tokens":
            return _tokens(f"inputs[{index}]", wire.tokens, model)
        case _:
            raise invalid("inputs", f"'inputs[{index}]' must have text or tokens")


def _prompt(wire: pb.GenerateRequest, model: ModelInfo) -> Prompt:
    match wire.WhichOneof("prompt"):
        case "chat":
            chat = to_chat(wire.chat)
            if chat.tools and wire.output.markup and "tools" in model.capabilities and not model.dialect.tools:
                raise unsupported(
                    "tools",
                    "'tools' cannot be used: how the model writes calls is not known from its chat template; start the "
                    "worker with --tool-parser NAME, or with --tool-parser none to leave calls in the text",
                )
            return chat
        case "text":
            return Text(wire.text)
        case "tokens":
            return _tokens("tokens", wire.tokens, model)
        case _:
            raise invalid("prompt", "a prompt must be given: 'chat', 'text' or 'tokens'")


def _tokens(param: str, wire: pb.TokenIds, model: ModelInfo) -> Tokens:
    ids = tuple(wire.ids)
    if not ids:
        raise invalid(param, f"'{param}' must hold at least one token id")
    check_token_ids(param, ids, model)
    return Tokens(ids)


def _message(index: int, wire: pb.ChatMessage) -> Message:
    where = f"messages[{index}]"
    if not wire.role:
        raise invalid("messages", f"'{where}.role' must not be empty")
    return Message(
        role=wire.role,
        parts=tuple(_part(where, part) for part in wire.parts) if wire.parts else None,
        name=wire.name or None,
        tool_calls=tuple(_tool_call(where, call) for call in wire.tool_calls),
        tool_call_id=wire.tool_call_id or None,
        reasoning=wire.reasoning or None,
    )


def _part(where: str, wire: pb.ContentPart) -> str | Image:
    match wire.WhichOneof("part"):
        case "text":
            return wire.text
        case "image":
            return _image(where, wire.image)
        case _:
            raise invalid("messages", f"a part of '{where}' is empty: it must have text or an image")


def _image(where: str, wire: pb.Image) -> Image:
    if not wire.data:
        raise invalid("messages", f"an image of '{where}' has no data")
    detail = wire.detail or "auto"
    if detail not in ("low", "high", "auto"):
        raise invalid("messages", f"'detail' of an image of '{where}' must be low, high or auto, not '{detail}'")
    return Image(wire.data, wire.media_type, detail)


def _tool_call(where: str, wire: pb.ToolCall) -> ToolCall:
    if not wire.name:
        raise invalid("messages", f"a tool call of '{where}' has no function name")
    return ToolCall(wire.id, wire.name, wire.arguments_json)


def _tools(wire: pb.ChatPrompt) -> tuple[Tool, ...]:
    tools = tuple(_tool(index, tool) for index, tool in enumerate(wire.tools))
    choice = wire.tool_choice
    match choice.mode:
        case pb.ToolChoice.MODE_UNSPECIFIED | pb.ToolChoice.MODE_AUTO:
            return tools
        case pb.ToolChoice.MODE_NONE:
            return ()  # a model that does not see the tools cannot call them
        case pb.ToolChoice.MODE_NAMED if choice.name not in {tool.name for tool in tools}:
            raise invalid("tool_choice", f"'tool_choice' names '{choice.name}', which is not one of 'tools'")
        case pb.ToolChoice.MODE_REQUIRED | pb.ToolChoice.MODE_NAMED:
            if not tools:
                raise invalid("tool_choice", "'tool_choice' demands a call, but there are no 'tools'")
            return tools
        case _:
            raise invalid("tool_choice", f"'tool_choice' has the unknown mode {choice.mode}")


def _call_rule(wire: pb.ChatPrompt) -> CallRule:
    mode = wire.tool_choice.mode
    named = mode == pb.ToolChoice.MODE_NAMED
    required = named or mode == pb.ToolChoice.MODE_REQUIRED
    return CallRule(required, wire.single_call, wire.tool_choice.name if named else None)


def _effort(given: str) -> str | None:
    if given and given not in EFFORTS:
        text = f"'reasoning_effort' must be one of {', '.join(EFFORTS)}, not '{given[:64]}'"
        raise invalid("reasoning_effort", text)
    return given or None


def _tool(index: int, wire: pb.Tool) -> Tool:
    if not 1 <= len(wire.name) <= MAX_TOOL_NAME:
        raise invalid("tools", f"'tools[{index}].name' must have 1 to {MAX_TOOL_NAME} characters, not {len(wire.name)}")
    parameters = _json(f"tools[{index}].parameters", "tools", wire.parameters_json or "{}")
    if not isinstance(parameters, dict):
        raise invalid("tools", f"'tools[{index}].parameters' must be a JSON object")
    return Tool(wire.name, wire.description, cast("dict[str, Any]", parameters), wire.strict)


def _json(where: str, param: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(param, f"'{where}' is not valid JSON: {error}") from None


def _sampling(wire: pb.SamplingOptions, model: ModelInfo) -> Sampling:
    given: dict[str, Any] = {name: _number(wire, name) for name in _LIMITS if wire.HasField(cast("Any", name))}
    given |= _lengths(wire)
    given |= _choices(wire)
    if wire.HasField("top_k"):
        if wire.top_k < -1:
            raise invalid("top_k", f"'top_k' must be at least -1, not {wire.top_k}")
        given["top_k"] = max(wire.top_k, 0)
    return Sampling(
        seed=wire.seed if wire.HasField("seed") else secrets.randbits(63),
        drawn_seed=wire.drawn_seed or not wire.HasField("seed"),
        logit_bias=_logit_bias(wire.logit_bias, model),
        stop=_stop(wire.stop),
        stop_token_ids=_stop_token_ids(wire.stop_token_ids, model),
        ignore_eos=wire.ignore_eos,
        keep_special_tokens=wire.keep_special_tokens,
        include_stop=wire.include_stop,
        **given,
    )


def _number(wire: pb.SamplingOptions, name: str) -> float:
    value: float = getattr(wire, name)
    low, high = _LIMITS[name]
    if low is None and not 0 < value <= high:  # written so that a NaN fails
        raise invalid(name, f"'{name}' must be above 0 and at most {high}, not {value:g}")
    if low is not None and not low <= value <= high:
        raise out_of_range(name, f"{value:g}", low, high)
    return value


def _lengths(wire: pb.SamplingOptions) -> dict[str, int]:
    given: dict[str, int] = {}
    if wire.HasField("max_tokens"):
        if wire.max_tokens < 1:
            raise invalid("max_tokens", f"'max_tokens' must be at least 1, not {wire.max_tokens}")
        given["max_tokens"] = wire.max_tokens
    if wire.HasField("min_tokens"):
        limit = given.get("max_tokens")
        if limit is not None and wire.min_tokens > limit:
            raise invalid("min_tokens", f"'min_tokens' must be at most 'max_tokens' ({limit}), not {wire.min_tokens}")
        given["min_tokens"] = wire.min_tokens
    return given


def _choices(wire: pb.SamplingOptions) -> dict[str, int]:
    given: dict[str, int] = {}
    if wire.HasField("n"):
        if not 1 <= wire.n <= MAX_CHOICES:
            raise out_of_range("n", wire.n, 1, MAX_CHOICES)
        given["n"] = wire.n
    if wire.HasField("best_of"):
        low = given.get("n", 1)
        if not low <= wire.best_of <= MAX_CHOICES:
            raise out_of_range("best_of", wire.best_of, low, MAX_CHOICES)
        given["best_of"] = wire.best_of
    return given


def _logit_bias(wire: Mapping[int, float], model: ModelInfo) -> dict[int, float]:
    if len(wire) > MAX_LOGIT_BIASES:
        raise invalid("logit_bias", f"'logit_bias' must have at most {MAX_LOGIT_BIASES} entries, not {len(wire)}")
    biases = dict(wire)
    check_token_ids("logit_bias", biases, model)
    for token, bias in biases.items():
        if not math.fabs(bias) <= 100:  # written so that a NaN fails
            raise out_of_range("logit_bias", f"{bias:g} (of token {token})", -100, 100)
    return biases


def _stop(wire: Sequence[str]) -> tuple[str, ...]:
    if len(wire) > MAX_STOPS:
        raise invalid("stop", f"'stop' must have at most {MAX_STOPS} texts, not {len(wire)}")
    for text in wire:
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            raise invalid(
                "stop", f"each text of 'stop' must have 1 to {MAX_STOP_CHARACTERS} characters, not {len(text)}"
            )
    return tuple(wire)


def _stop_token_ids(wire: Sequence[int], model: ModelInfo) -> tuple[int, ...]:
    if len(wire) > MAX_STOPS:
        raise invalid("stop_token_ids", f"'stop_token_ids' must have at most {MAX_STOPS} ids, not {len(wire)}")
    check_token_ids("stop_token_ids", wire, model)
    return tuple(wire)


def _output(wire: pb.OutputOptions) -> Output:
    return Output(
        logprobs=_logprobs("logprobs", wire.logprobs) if wire.HasField("logprobs") else None,
        prompt_logprobs=(
            _logprobs("prompt_logprobs", wire.prompt_logprobs) if wire.HasField("prompt_logprobs") else None
        ),
        echo=wire.echo,
        prompt_token_ids=wire.prompt_token_ids,
    )


def _logprobs(param: str, value: int) -> int:
    if value > MAX_LOGPROBS:
        raise out_of_range(param, value, 0, MAX_LOGPROBS)
    return value


def _constraint(wire: pb.Constraint, *, reasoned: bool) -> Constraint:
    return replace(_grammar(wire), reasoned=reasoned)


def _grammar(wire: pb.Constraint) -> Constraint:
    match wire.WhichOneof("kind"):
        case "json_object" if wire.json_object:
            return Constraint("json_object")
        case "json_schema":
            _json("json_schema", "json_schema", wire.json_schema)
            return Constraint("json_schema", wire.json_schema)
        case "regex":
            return Constraint("regex", _not_empty("regex", wire.regex))
        case "grammar":
            return Constraint("grammar", _not_empty("grammar", wire.grammar))
        case "choice":
            if not wire.choice.texts:
                raise invalid("choice", "'choice' must have at least one text")
            return Constraint("choice", tuple(_not_empty("choice", text) for text in wire.choice.texts))
        case _:
            raise invalid("constraint", "'constraint' must say which kind of grammar it is")


def _not_empty(param: str, text: str) -> str:
    if not text:
        raise invalid(param, f"'{param}' must not be empty")
    return text


def _resume(wire: pb.Resume, choices: int, model: ModelInfo) -> dict[int, Progress]:
    progress: dict[int, Progress] = {}
    for item in wire.choices:
        if item.choice >= choices:
            raise out_of_range("resume", f"choice {item.choice}", 0, choices - 1)
        if item.choice in progress:
            raise invalid("resume", f"'resume' has choice {item.choice} twice")
        ids = tuple(item.token_ids)
        check_token_ids("resume", ids, model)
        progress[item.choice] = Progress(ids, item.finished)
    return progress


def _priority(wire: pb.GenerateRequest) -> int:
    if not -100 <= wire.priority <= 100:
        raise out_of_range("priority", wire.priority, -100, 100)
    return wire.priority
