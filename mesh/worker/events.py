"""From engine to wire: events, loads and descriptions. Pure; the first two run once per token and once per step.

Assigning fields of a message in place is twice as fast as building it from keyword arguments (measured), hence the
style of `fill_event`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from mesh.engine.base import (
    ChoiceFinished,
    Classification,
    Delta,
    Embeddings,
    Engine,
    Event,
    Failed,
    Finished,
    FinishReason,
    Load,
    ModelInfo,
    Started,
    TokenLogprob,
)
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from mesh.wire import MAX_MESSAGE_BYTES

# Bytes of a vector on the wire besides its numbers, at most.
_VECTOR_OVERHEAD = 16

_REASONS = {FinishReason.STOP: pb.FINISH_REASON_STOP, FinishReason.LENGTH: pb.FINISH_REASON_LENGTH}


def fill_event(wire: pb.StreamEvent | pb.GenerateResponse, event: Event, model: ModelInfo | None) -> None:
    """Write one event of an answer of `model`; `Failed` only into a StreamEvent: a plain call fails with a status."""
    kind = type(event)
    if kind is Delta:
        fill_delta(wire.delta, event)  # pyright: ignore[reportArgumentType]  # `kind is` does not narrow
    elif isinstance(event, Started) and model is not None:
        _fill_started(wire.started, event, model)
    elif isinstance(event, ChoiceFinished):
        _fill_choice_finished(wire.choice_finished, event)
    elif isinstance(event, Finished):
        _fill_finished(wire.finished, event)
    elif isinstance(event, Failed) and isinstance(wire, pb.StreamEvent):
        fill_failure(wire.failed, event.error)
    else:
        raise TypeError(f"{kind.__name__} has no place in a {type(wire).__name__}")


def fill_delta(wire: pb.Delta, event: Delta) -> None:
    """Write new tokens. The message exists on the wire even if every field has its default."""
    wire.choice = event.choice
    wire.text = event.text
    wire.token_ids.extend(event.token_ids)
    if event.position is not None:
        wire.position = event.position
    if event.logprobs is not None:
        _add_logprobs(wire.logprobs, event.logprobs)


def fill_failure(wire: pb.Failure, error: MeshError) -> None:
    """Write an error."""
    wire.code = error.code
    wire.message = error.message
    wire.param = error.param or ""
    if error.retry_after is not None:
        wire.retry_after = error.retry_after


def fill_load(wire: pb.WorkerLoad, load: Load) -> None:
    """Write the load."""
    wire.running = load.running
    wire.waiting = load.waiting
    wire.paused = load.paused
    wire.slots = load.slots
    wire.running_tokens = load.running_tokens
    wire.pending_tokens = load.pending_tokens
    wire.kv_used = load.kv_used
    wire.steps = load.steps


def describe(model: ModelInfo, engine: Engine) -> pb.DescribeModelResponse:
    """What a served model is and can do."""
    return pb.DescribeModelResponse(
        model=model.name,
        fingerprint=model.fingerprint,
        context_length=model.context_length,
        capabilities=capabilities(model),
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        engine=engine.name,
        architecture=model.architecture,
        dtype=model.dtype,
        device=model.device,
        execution=model.execution,
        parameters=model.parameters,
        adapters=model.adapters,
        base=model.base or "",
        tool_parser=model.dialect.tools,
        reasoning_parser=model.dialect.reasoning,
    )


def capabilities(model: ModelInfo) -> Sequence[pb.Capability]:
    """The model's capabilities, in the order of their numbers; a name without a number is a bug of the engine."""
    return sorted(pb.Capability.Value(f"CAPABILITY_{name.upper()}") for name in model.capabilities)  # pyright: ignore[reportReturnType]


def check_answer_size(rows: Sequence[Sequence[float]]) -> None:
    """Refuse inputs whose rows of numbers, all of one length, are too many for one message."""
    count, length = len(rows), len(rows[0])
    if count * (length * 4 + _VECTOR_OVERHEAD) > MAX_MESSAGE_BYTES:
        raise MeshError(
            ErrorKind.PAYLOAD_TOO_LARGE,
            f"'inputs' has {count} inputs: at {length} numbers each one answer holds at most "
            f"{MAX_MESSAGE_BYTES // (length * 4 + _VECTOR_OVERHEAD)}",
            param="inputs",
        )


def embed_response(embeddings: Embeddings) -> pb.EmbedResponse:
    """The vectors."""
    response = pb.EmbedResponse(prompt_tokens=embeddings.prompt_tokens)
    for vector in embeddings.vectors:
        response.embeddings.add().values.extend(vector)
    return response


def classify_response(found: Classification) -> pb.ClassifyResponse:
    """The scores."""
    response = pb.ClassifyResponse(labels=found.labels, prompt_tokens=found.prompt_tokens, exclusive=found.exclusive)
    for scores in found.scores:
        response.results.add().scores.extend(scores)
    return response


def _fill_started(wire: pb.Started, event: Started, model: ModelInfo) -> None:
    wire.prompt_tokens = event.prompt_tokens
    wire.cached_tokens = event.cached_tokens
    wire.fingerprint = model.fingerprint
    wire.prompt_token_ids.extend(event.prompt_token_ids)
    wire.text_only = event.text_only
    _add_logprobs(wire.prompt_logprobs, event.prompt_logprobs)
    if event.prompt_end is not None:
        wire.markup.tool_parser = model.dialect.tools
        wire.markup.reasoning_parser = model.dialect.reasoning
        wire.markup.prompt_end = event.prompt_end


def _fill_choice_finished(wire: pb.ChoiceFinished, event: ChoiceFinished) -> None:
    wire.choice = event.choice
    wire.reason = _REASONS[event.reason]
    if event.stop_string is not None:
        wire.stop_string = event.stop_string
    if event.stop_token_id is not None:
        wire.stop_token_id = event.stop_token_id
    if event.tokens is not None:
        wire.tokens = event.tokens


def _fill_finished(wire: pb.Finished, event: Finished) -> None:
    usage, timing = wire.usage, wire.timing
    usage.prompt_tokens = event.prompt_tokens
    usage.completion_tokens = event.completion_tokens
    usage.cached_tokens = event.cached_tokens
    timing.queue = event.queue_time
    timing.prefill = event.prefill_time
    timing.decode = event.decode_time


def _add_logprobs(wire: RepeatedCompositeFieldContainer[pb.TokenLogprob], logprobs: Iterable[TokenLogprob]) -> None:
    for logprob in logprobs:
        item = wire.add()
        item.token_id = logprob.token_id
        item.logprob = logprob.logprob
        item.token = logprob.token
        for top in logprob.top:
            item.top.add(token_id=top.token_id, logprob=top.logprob, token=top.token)
