"""Whether a worker stands still, or has forgotten one stream, by the pace that is its own."""

from __future__ import annotations

from typing import Any

from gateway.routing.pace import Pace
from gateway.routing.stream import Stream, Trouble


def standstill(pace: Pace, stream: Stream[Any], now: float) -> tuple[Trouble, float] | None:
    """The worker makes no steps, although it has work."""
    still = now - max(pace.stepped_at, stream.active_at)
    if still <= pace.limit or (pace.idle and stream.confirmed):
        return None
    return Trouble.STALLED, still


def neglect(pace: Pace, stream: Stream[Any], now: float) -> tuple[Trouble, float] | None:
    """The worker steps on, or says that it has nothing to do, and this stream gets nothing."""
    if not stream.confirmed:
        return None
    excused_at = pace.crowded_at if stream.flowing else pace.worked_at
    quiet = now - max(stream.active_at, excused_at)
    limit = max(pace.limit, pace.limit_of(stream.pace)) if stream.flowing else pace.limit_of(0)
    return (Trouble.FORGOTTEN, quiet) if quiet > limit else None
