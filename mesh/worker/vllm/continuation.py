"""A row of SourcedEngine in the words of vLLM's service, and back. Pure."""

from __future__ import annotations

from mesh.engine.base import Constraint, Request
from mesh.engine.output import RawLogprob
from mesh.engine.sourced.source import Piece, Row
from mesh.engine.vllm import sampling
from mesh.errors import unsupported
from mesh.vllm.v1 import engine_pb2 as vllm

_SEED_MASK = 2**31 - 1


def check(request: Request) -> None:
    """Refuse by name what the service has no field for, and what vLLM could not go on with exactly."""
    sampling.check(request)
    if request.cache_salt:
        raise unsupported("cache_salt")


def to_wire(row: Row, name: str) -> vllm.GenerateRequest:
    """The request that continues a row; its end is found here, by tokens, so stop strings are not told."""
    given = row.request.sampling
    params = vllm.SamplingParams(
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        min_p=given.min_p,
        frequency_penalty=given.frequency_penalty,
        presence_penalty=given.presence_penalty,
        repetition_penalty=given.repetition_penalty,
        max_tokens=row.limit - row.done,
        min_tokens=max(0, given.min_tokens - row.done),
        stop_token_ids=sorted(row.ending),
        ignore_eos=True,  # the ends of turn are among the stop tokens
        skip_special_tokens=True,
        n=1,
        logit_bias=dict(given.logit_bias),
    )
    if given.temperature:
        params.seed = sampling.seed_of(given, row.choice, row.done) & _SEED_MASK
    if row.request.output.logprobs is not None:
        params.logprobs = row.request.output.logprobs
    if row.request.constraint is not None:
        _set_constraint(params, row.request.constraint)
    prompt = vllm.TokenizedInput(input_ids=row.ids)
    return vllm.GenerateRequest(request_id=name, tokenized=prompt, sampling_params=params, stream=True)


def _set_constraint(params: vllm.SamplingParams, constraint: Constraint) -> None:
    match constraint.kind:
        case "json_object":
            params.json_object = True
        case "json_schema":
            params.json_schema = str(constraint.value)
        case "regex":
            params.regex = str(constraint.value)
        case "grammar" | "tools":
            params.grammar = str(constraint.value)
        case "choice":
            params.choice.choices.extend(constraint.value)


def to_piece(chunk: vllm.GenerateStreamChunk, top: int | None) -> Piece:
    """New tokens, with `top` of the likeliest at each place; None if no log probabilities were asked for."""
    logprobs = None if top is None else _logprobs(chunk.output_logprobs, top)
    return Piece(chunk.token_ids, logprobs, chunk.cached_tokens)


def _logprobs(wire: vllm.OutputLogProbs, top: int) -> list[RawLogprob]:
    """At each place vLLM tells the chosen token among the others, so that there may be one more than asked for."""
    found: list[RawLogprob] = []
    for place, chosen in enumerate(wire.token_logprobs):
        told = wire.top_logprobs[place]
        pairs = zip(told.token_ids, told.values, strict=True)
        found.append((chosen, sorted(pairs, key=lambda pair: -pair[1])[:top]))
    return found
