"""The one line that a worker logs for each request, when it has ended; the gateway's has the same request_id. Where
traces are exported, the request's span and where its time went."""

from __future__ import annotations

import logging
import time
from typing import Any

from mesh.engine.base import Finished
from mesh.errors import MeshError
from mesh.log import kv
from mesh.trace import Span
from mesh.worker.stream import Stream

log = logging.getLogger(__name__)


def report(stream: Stream, outcome: str, finished: Finished | None, error: MeshError | None) -> None:
    """Log how a stream ended: counts and times if it ran to its end, the error's code if it has one."""
    facts: dict[str, Any] = {
        "request_id": stream.request_id,
        "model": stream.model.name if stream.model is not None else "",
        "attempt": stream.attempt,
        "outcome": outcome,
        "seconds": round(time.monotonic() - stream.began_at, 4),
    }
    if error is not None:
        facts["error"] = error.code
    if finished is not None:
        facts |= {
            "prompt_tokens": finished.prompt_tokens,
            "cached_tokens": finished.cached_tokens,
            "completion_tokens": finished.completion_tokens,
            "queue": round(finished.queue_time, 4),
            "prefill": round(finished.prefill_time, 4),
            "decode": round(finished.decode_time, 4),
        }
    log.info("request", extra=kv(**facts))


def end_span(span: Span, finished: Finished | None, error: MeshError | None, *, steps: int) -> None:
    """End a stream's span, with its queueing, prefill and decoding below it if it ran to its end. `steps`: the engine's
    while it was there."""
    if finished is not None:
        queue, prefill = finished.queue_time, finished.prefill_time
        span.part("queue", 0.0, queue)
        span.part("prefill", queue, prefill, tokens=finished.prompt_tokens - finished.cached_tokens)
        span.part("decode", queue + prefill, finished.decode_time, tokens=finished.completion_tokens)
    span.end(error=error.code if error is not None else "", steps=steps)
