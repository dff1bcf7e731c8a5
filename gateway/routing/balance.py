"""Which of several workers takes a request: one function per policy, and what they share.

The load of a worker rides on each message of its session, and holds the work of every gateway. What this gateway has
sent and the worker has not reported yet is added.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b

from gateway.routing.prefix import Prefix, PrefixTable
from gateway.routing.session import Session

# A row costs as much as so many tokens of context: the rest of its forward pass.
_ROW_TOKENS = 1024
# A worker with less load than this is not too busy for anything, however idle the others are.
IDLE_LOAD = 0.25
_MASK = (1 << 64) - 1


# What the policies know of a worker


def rows(session: Session) -> int:
    """Rows that it has: running, waiting or paused, not reported yet, and inputs to embed.

    Inputs that this gateway waits for count throughout: a worker that answers beside them does not report them at all.
    """
    return session.rows + session.unconfirmed + session.embedding


def is_full(session: Session) -> bool:
    """Whether another row would have to wait for a place."""
    return rows(session) >= session.slots


def load(session: Session) -> float:
    """Tokens in flight and queued for each slot, a row counting for some itself. 1 is a worker full of short rows."""
    return _work(session) / session.capacity


def _work(session: Session) -> float:
    return rows(session) + (session.tokens + session.unconfirmed_tokens) / _ROW_TOKENS


def _busyness(session: Session) -> tuple[bool, float]:
    return is_full(session), load(session)


# What comes before every policy


def prefer_zone(sessions: Sequence[Session], zone: str) -> Sequence[Session]:
    """Those of the zone while one of them has a free slot, else all."""
    if not zone:
        return sessions
    near = [session for session in sessions if session.zone == zone]
    if any(not is_full(session) for session in near):
        return near
    return sessions


@dataclass(slots=True)
class Turns:
    """How far the rounds of `round_robin` have come: when each worker has its next turn, and the time of the last one.

    A worker that was away, or is new, has it now.
    """

    now: float = 0.0
    next: dict[str, float] = field(default_factory=dict[str, float])

    def forget(self) -> None:
        """Drop what no longer counts: workers that are gone, or might as well be new."""
        self.next = {worker_id: turn for worker_id, turn in self.next.items() if turn > self.now}


# The policies: from at least one live session to the one to use


def least_loaded(sessions: Sequence[Session]) -> Session:
    """The less loaded one of two drawn at random, one that is full after one that is not.

    Two are as good as all for the balance (Mitzenmacher, "The Power of Two Choices", 2001), and several gateways with
    the same view do not all choose the same worker. Those that can take more are drawn more often.
    """
    if len(sessions) == 1:
        return sessions[0]
    first, second = _draw_two(sessions)
    return first if _busyness(first) <= _busyness(second) else second


def random_choice(sessions: Sequence[Session]) -> Session:
    """One drawn by weight."""
    return random.choices(sessions, [session.weight for session in sessions])[0]


def round_robin(sessions: Sequence[Session], turns: Turns) -> Session:
    """One after the other, as often as their weights say (stride scheduling; Waldspurger, 1995)."""
    now = turns.now
    turn, _, chosen = min((max(turns.next.get(each.worker_id, now), now), each.worker_id, each) for each in sessions)
    turns.now = turn
    turns.next[chosen.worker_id] = turn + 1 / chosen.weight
    return chosen


def prefix_aware(
    sessions: Sequence[Session], prefix: Prefix, table: PrefixTable, factor: float
) -> tuple[Session, bool]:
    """The one that has seen most of the prompt, else the one that its hash says, among those that are not too busy; and
    whether a better one was too busy.

    Rendezvous hashing (Thaler and Ravishankar, 1998): each worker has a score for each prompt, and the best one takes
    it. A worker that leaves moves its own prompts and no others; where the best one is too busy, all gateways go to the
    same next one. The bound is that of Mirrokni, Thorup and Zadimoghaddam ("Consistent Hashing with Bounded Loads",
    2018).
    """
    best = _preferred(sessions, prefix, table)
    if load(best) <= IDLE_LOAD and not is_full(best):
        return best, False
    allowed = within_bound(sessions, factor)
    if best in allowed:
        return best, False
    return _preferred(allowed, prefix, table), True


def within_bound(sessions: Sequence[Session], factor: float) -> Sequence[Session]:
    """Those whose load is at most `factor` (at least 1) times the mean, or nearly none; with a free slot if one has.

    Never empty: not all can be above the mean.
    """
    loads = [load(session) for session in sessions]
    mean = sum(map(_work, sessions)) / sum(session.capacity for session in sessions)
    # The smallest may be above the mean by a rounding error when all are equal.
    limit = max(factor * mean, IDLE_LOAD, min(loads))
    allowed = [session for session, each in zip(sessions, loads, strict=True) if each <= limit]
    return [session for session in allowed if not is_full(session)] or allowed


def _holders(sessions: Sequence[Session], prefix: Prefix, table: PrefixTable) -> Sequence[Session]:
    """Of these the ones that have seen most of the prompt, if that is more than what its hash is over."""
    for processes in table.holders(prefix):
        found = [session for session in sessions if session.process in processes]
        if found:
            return found
    return ()


def _preferred(sessions: Sequence[Session], prefix: Prefix, table: PrefixTable) -> Session:
    return max(_holders(sessions, prefix, table) or sessions, key=partial(_score, prefix.key))


def _score(key: int, session: Session) -> float:
    """A number for a prompt and a worker, the best of which takes it as often as its capacity says."""
    mixed = (key ^ _place(session.worker_id)) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return math.log(((mixed ^ mixed >> 32) + 1) / (_MASK + 2)) / session.capacity


@lru_cache(maxsize=65536)
def _place(worker_id: str) -> int:
    return int.from_bytes(blake2b(worker_id.encode(), digest_size=8).digest(), "big")


def _draw_two(sessions: Sequence[Session]) -> Sequence[Session]:
    """Two different ones, by capacity (Efraimidis and Spirakis, 2006)."""
    sizes = {session.capacity for session in sessions}
    if len(sizes) == 1:
        return random.sample(sessions, 2)
    drawn = sorted((math.log(1 - random.random()) / session.capacity, at) for at, session in enumerate(sessions))
    return [sessions[at] for _, at in drawn[-2:]]
