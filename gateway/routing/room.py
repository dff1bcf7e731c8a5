"""Whether a worker has room for one more request, as far as this gateway can know.

Several gateways share the workers without talking to each other, so a worker may be full although it seems to have
room. Then it refuses, and is left in peace for a moment.
"""

from __future__ import annotations

from gateway.routing.session import Session

# The share of the KV cache in use from which on rows that wait on a worker are taken to wait for pages.
_CACHE_FULL = 0.9


def has_room(session: Session, ahead: int) -> bool:
    """Whether there is a free place, or fewer than `ahead` rows that wait for one: those begin without a pause."""
    load = session.load
    slots = load.slots or session.slots
    if session.refusing and session.unconfirmed:
        return False  # one at a time until it accepts: the first in line, and not whoever meets a better moment
    if load.waiting > ahead and load.kv_used >= _CACHE_FULL:
        return False
    # What was started here and is not confirmed may wait there, and be counted in the load already.
    waiting = max(load.waiting, session.unconfirmed)
    return not slots or load.running + waiting < slots + ahead
