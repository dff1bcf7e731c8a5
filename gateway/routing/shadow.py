"""Copies of requests for another model, to compare it with the first: computed last, counted, and dropped."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from gateway.routing.claim import Claim
from gateway.routing.dispatch import Dispatch
from gateway.routing.events import Delta, Event
from gateway.routing.generation import Generation
from mesh.errors import MeshError
from mesh.log import kv
from mesh.v1 import inference_pb2 as pb

log = logging.getLogger(__name__)

# Behind all that somebody waits for.
_LAST = 100
_OPERATION = "shadow"


def shadow(dispatch: Dispatch, name: str, models: Sequence[str], wires: Sequence[pb.GenerateRequest]) -> None:
    """Send copies of a request for `name` to `models`, which have begun for somebody."""
    for model in models:
        for wire in wires:
            copy = pb.GenerateRequest()
            copy.CopyFrom(wire)
            copy.model = model
            copy.request_id = f"{wire.request_id}-shadow"
            if not dispatch.directory.live(model):
                outcome = "no_worker"
            elif dispatch.aliases.copy(_answer(dispatch, name, copy)):
                outcome = "begun"
            else:
                outcome = "too_many"
            dispatch.metrics.shadows.labels(name, model, outcome).inc()


async def _answer(dispatch: Dispatch, name: str, wire: pb.GenerateRequest) -> None:
    generation = Generation(wire, dispatch, streamed=False, claim=Claim(priority=_LAST))
    began, first, code = time.monotonic(), None, ""
    try:
        while not generation.done:
            events = await generation.next()
            if first is None and _has_tokens(events):
                first = time.monotonic()
    except MeshError as error:
        code = error.code
    finally:
        generation.close()
        seconds = time.monotonic() - began
        _count(dispatch, generation, seconds, first - began if first is not None else None, code)
        facts = kv(alias=name, model=wire.model, copy_of=wire.request_id, seconds=round(seconds, 4), error=code)
        log.info("shadow", extra={**facts, **kv(completion_tokens=generation.completion_tokens)})


def _has_tokens(events: Sequence[Event]) -> bool:
    return any(isinstance(event, Delta) for event in events)


def _count(dispatch: Dispatch, generation: Generation, seconds: float, ttft: float | None, code: str) -> None:
    metrics, labels = dispatch.metrics, (_OPERATION, generation.model)
    metrics.duration.labels(*labels, code).observe(seconds)
    if ttft is not None:
        metrics.ttft.labels(*labels).observe(ttft)
    if generation.started is not None:
        metrics.tokens.labels(*labels, "input").observe(generation.started.prompt_tokens)
        metrics.tokens.labels(*labels, "output").observe(generation.completion_tokens)
