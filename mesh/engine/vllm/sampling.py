"""From requests of the mesh to those of vLLM. Ends of answers are found by our own tracker: vLLM is asked for ids."""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib import import_module
from typing import Any

from mesh.engine.base import Chat, Constraint, Image, Request, Sampling
from mesh.engine.uniform import mix, stream
from mesh.errors import invalid, unsupported

# Below, vLLM would quietly take this instead.
_LEAST_TEMPERATURE = 0.01
_SEED_MASK = 2**63 - 1


def check(request: Request) -> None:
    """Refuse what vLLM cannot honour, and what it could not go on with exactly."""
    sampling = request.sampling
    if isinstance(request.prompt, Chat) and any(
        isinstance(part, Image) for message in request.prompt.messages for part in message.parts or ()
    ):
        raise unsupported("messages", "'messages' holds an image: the vllm engine takes text only")
    if request.adapter is not None:
        raise unsupported("adapter")
    if request.output.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs")
    if sampling.typical_p != 1:
        raise unsupported("typical_p")
    if sampling.best_of not in (None, sampling.n):
        raise unsupported("best_of", f"'best_of' must equal 'n' ({sampling.n}) here, not {sampling.best_of}")
    if 0 < sampling.temperature < _LEAST_TEMPERATURE:
        text = f"'temperature' must be 0 or at least {_LEAST_TEMPERATURE} here, not {sampling.temperature:g}"
        raise invalid("temperature", text)
    if any(not progress.finished for progress in request.resume.values()):
        _check_resume(request)


def _check_resume(request: Request) -> None:
    """Resumed tokens are a part of the prompt to vLLM, and its random numbers come one after the other."""
    sampling = request.sampling
    if request.constraint is not None:
        raise unsupported("resume", "'resume' cannot be used with a constraint here: vLLM would begin it anew")
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(sampling, name):
            raise unsupported("resume", f"'resume' cannot be used with '{name}' here: vLLM would lose count")
    if sampling.temperature and not sampling.drawn_seed:
        raise unsupported("resume", "'resume' cannot be used with a seed of the client's here: it would not be kept to")


def to_params(request: Request, choice: int, *, done: int, limit: int, ending: Collection[int], vllm: Any) -> Any:
    """vLLM's SamplingParams of one choice that has `done` tokens already and may have `limit`."""
    sampling = request.sampling
    return vllm.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        seed=seed_of(sampling, choice, done) if sampling.temperature else None,
        max_tokens=limit - done,
        min_tokens=max(0, sampling.min_tokens - done),
        stop_token_ids=sorted(ending),
        ignore_eos=True,  # the ends of turn are among the stop tokens
        logprobs=request.output.logprobs,
        detokenize=False,
        output_kind=vllm.RequestOutputKind.DELTA,
        structured_outputs=_structured(request.constraint, vllm) if request.constraint is not None else None,
    )


def seed_of(sampling: Sampling, choice: int, done: int) -> int:
    """Another one for each choice, and after a resume: the numbers before would be drawn again."""
    state = stream(sampling.seed, choice)
    return (mix(state ^ done) if done else state) & _SEED_MASK


def _structured(constraint: Constraint, vllm: Any) -> Any:
    match constraint.kind:
        case "json_object":
            return vllm.StructuredOutputsParams(json_object=True)
        case "json_schema":
            return vllm.StructuredOutputsParams(json=json.loads(str(constraint.value)))
        case "regex":
            return vllm.StructuredOutputsParams(regex=str(constraint.value))
        case "grammar" | "tools":
            return vllm.StructuredOutputsParams(grammar=str(constraint.value))
        case "choice":
            return vllm.StructuredOutputsParams(choice=list(constraint.value))


def module() -> Any:
    """vLLM's sampling parameters; importing them takes seconds."""
    return import_module("vllm.sampling_params")
