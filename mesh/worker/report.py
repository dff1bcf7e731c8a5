"""The one line that a worker logs for each request, when it has ended; the gateway's has the same request_id."""

from __future__ import annotations

import logging
import time
from typing import Any

from mesh.engine.base import Finished
from mesh.errors import MeshError
from mesh.log import kv
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
