"""Which of several workers takes a request: one function per policy."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gateway.routing.session import Session

# From at least one live session to the one to use.
Policy = Callable[[Sequence[Session]], Session]


def least_loaded(sessions: Sequence[Session]) -> Session:
    """The less loaded one of two drawn at random, by the load that workers report with each step.

    Two are as good as all for the balance (Mitzenmacher, "The Power of Two Choices", 2001), and several gateways with
    the same view do not all choose the same worker.
    """
    if len(sessions) == 1:
        return sessions[0]
    first, second = random.sample(sessions, 2)
    return first if busyness(first) <= busyness(second) else second


def busyness(session: Session) -> tuple[float, float]:
    """Rows per slot, those included that the worker has not reported yet; then the share of the KV cache in use.

    Inputs that this gateway waits for count throughout: a worker that answers beside them does not report them at all.
    """
    load = session.load
    rows = load.running + load.waiting + load.paused + session.unconfirmed + session.embedding
    return rows / max(1, load.slots or session.slots), load.kv_used


def prefer_zone(sessions: Sequence[Session], zone: str) -> Sequence[Session]:
    """Those of the zone while one of them has a free slot, else all."""
    near = [session for session in sessions if session.zone == zone]
    if zone and any(busyness(session)[0] < 1 for session in near):
        return near
    return sessions
