"""From a request in vLLM's words to one in the mesh's. Pure; raises MeshError naming the field at fault.

Limits are checked where those of all requests are, in mesh/worker/convert.py; most fields have the same names there.
"""

from __future__ import annotations

from typing import Any, Final

from mesh.errors import invalid, out_of_range
from mesh.v1 import inference_pb2 as pb
from mesh.vllm.v1 import engine_pb2 as vllm
from mesh.worker.convert import MAX_LOGPROBS

_REFUSED: Final = (
    "kv_transfer_params",
    "kv_transfer_params_json",
    "mm_inputs",
    "extra_mm_inputs",
    "media_refs",
)
# Where 0 says that a field is unset, and where the mesh's own default is 0 or no.
_NUMBERS: Final = (
    "top_p",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "n",
)
_OPTIONALS: Final = ("temperature", "max_tokens", "seed")
_MOST_TOP_K: Final = 2**31 - 1


def to_generate(wire: vllm.GenerateRequest) -> pb.GenerateRequest:
    """The same request for the worker's only model."""
    set_fields = {descriptor.name for descriptor, _ in wire.ListFields()}
    for name in _REFUSED:
        if name in set_fields:
            raise _refused(name)
    if wire.data_parallel_rank != 0:
        raise invalid("data_parallel_rank", f"'data_parallel_rank' must be 0, not {wire.data_parallel_rank}")
    made = pb.GenerateRequest(request_id=wire.request_id, sampling=_sampling(wire.sampling_params))
    match wire.WhichOneof("input"):
        case "tokenized":
            made.tokens.ids.extend(wire.tokenized.input_ids)
        case "text":
            made.text = wire.text
        case _:
            raise invalid("input", "'input' must be given: 'tokenized' or 'text'")
    _set_output(made.output, wire.sampling_params)
    _set_constraint(made, wire.sampling_params)
    return made


def _refused(name: str) -> Exception:
    return invalid(name, f"'{name}' is not supported by this worker")


def _sampling(wire: vllm.SamplingParams) -> pb.SamplingOptions:
    if wire.HasField("truncate_prompt_tokens"):
        raise _refused("truncate_prompt_tokens")
    given: dict[str, Any] = {name: value for name in _NUMBERS if (value := getattr(wire, name))}
    given |= {name: getattr(wire, name) for name in _OPTIONALS if wire.HasField(name)}  # pyright: ignore[reportArgumentType]
    if wire.logit_bias and min(wire.logit_bias) < 0:
        raise invalid("logit_bias", f"'logit_bias' must be of token ids, not {min(wire.logit_bias)}")
    return pb.SamplingOptions(
        top_k=min(wire.top_k, _MOST_TOP_K),
        stop=wire.stop,
        stop_token_ids=wire.stop_token_ids,
        logit_bias=dict(wire.logit_bias),
        keep_special_tokens=not wire.skip_special_tokens,
        **given,
    )


def _set_output(made: pb.OutputOptions, wire: vllm.SamplingParams) -> None:
    if wire.HasField("logprobs"):
        made.logprobs = _logprobs("logprobs", wire.logprobs)
    if wire.HasField("prompt_logprobs"):
        made.prompt_logprobs = _logprobs("prompt_logprobs", wire.prompt_logprobs)


def _logprobs(name: str, value: int) -> int:
    """vLLM's -1 would be the whole vocabulary."""
    if not 0 <= value <= MAX_LOGPROBS:
        raise out_of_range(name, value, 0, MAX_LOGPROBS)
    return value


def _set_constraint(made: pb.GenerateRequest, wire: vllm.SamplingParams) -> None:
    constraint = made.constraint
    match wire.WhichOneof("constraint"):
        case None:
            made.ClearField("constraint")
        case "structural_tag":
            raise _refused("structural_tag")
        case "choice":
            constraint.choice.texts.extend(wire.choice.choices)
            constraint.choice.SetInParent()
        case name:
            setattr(constraint, name, getattr(wire, name))
