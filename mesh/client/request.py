"""From Python's values to a request of the wire. What is not given stays unset, except the seed."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from mesh.errors import invalid
from mesh.v1 import inference_pb2 as pb

# A text, token ids, or the messages of a conversation: `{"role": …, "content": …}`, or ChatMessage for all else that
# one can hold.
Prompt = str | Sequence[int] | Sequence[Mapping[str, str] | pb.ChatMessage]

_INT64 = 1 << 63
_SCALARS = frozenset(
    "temperature top_p top_k min_p typical_p frequency_penalty presence_penalty repetition_penalty seed max_tokens "
    "min_tokens ignore_eos n best_of keep_special_tokens include_stop".split()
)
_LISTS = frozenset({"stop", "stop_token_ids"})


class Options(TypedDict, total=False):
    """How to answer. Meaning, range and default of each are those of SamplingOptions, OutputOptions and GenerateRequest
    in inference.proto; `timeout` is in seconds, for the whole answer."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    typical_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    max_tokens: int
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    n: int
    best_of: int
    keep_special_tokens: bool
    include_stop: bool
    logprobs: int
    constraint: pb.Constraint
    tools: Sequence[pb.Tool]
    priority: int
    request_id: str
    timeout: float


def build(model: str, prompt: Prompt, options: Options) -> pb.GenerateRequest:
    """The request; raises MeshError for a prompt that is none, TypeError for an option that does not exist."""
    request = pb.GenerateRequest(model=model)
    _set_prompt(request, prompt)
    for name, value in cast("Mapping[str, Any]", options).items():
        _set(request, name, value)
    return request


def prepared(request: pb.GenerateRequest) -> pb.GenerateRequest:
    """A copy with a name for the logs, and a seed, so that each worker draws the same numbers."""
    copy = pb.GenerateRequest()
    copy.CopyFrom(request)
    if not copy.request_id:
        copy.request_id = uuid.uuid4().hex
    if not copy.sampling.HasField("seed"):
        copy.sampling.seed = random.randrange(_INT64)
        copy.sampling.drawn_seed = True
    return copy


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
    elif all(isinstance(item, int) for item in prompt) and prompt:
        request.tokens.ids.extend(cast("Sequence[int]", prompt))
    elif prompt:
        request.chat.messages.extend(_message(item) for item in prompt)
    else:
        raise invalid("prompt", "'prompt' must be a text, token ids or messages, and not empty")


def _message(given: object) -> pb.ChatMessage:
    if isinstance(given, pb.ChatMessage):
        return given
    if not isinstance(given, Mapping):
        raise invalid("prompt", f"a message of 'prompt' must be a dict or a ChatMessage, not {type(given).__name__}")
    fields = cast("Mapping[str, str]", given)
    more = fields.keys() - {"role", "content"}
    if more:
        raise invalid("prompt", f"a message has role and content; use ChatMessage for '{min(more)}'")
    return pb.ChatMessage(role=fields["role"], parts=[pb.ContentPart(text=fields["content"])])


def _set(request: pb.GenerateRequest, name: str, value: Any) -> None:
    sampling = request.sampling
    if name in _SCALARS:
        setattr(sampling, name, value)
    elif name in _LISTS:
        if isinstance(value, str):
            raise invalid(name, f"'{name}' must be a list, not one text")
        getattr(sampling, name).extend(value)
    elif name == "logit_bias":
        sampling.logit_bias.update(value)
    elif name == "logprobs":
        request.output.logprobs = value
    elif name == "constraint":
        request.constraint.CopyFrom(value)
    elif name == "tools":
        request.chat.tools.extend(value)
    elif name in ("priority", "request_id"):
        setattr(request, name, value)
    elif name == "timeout":
        request.deadline_ms = max(1, round(value * 1000))
    else:
        raise TypeError(f"'{name}' is no option of generate")
