"""Who was on a worker when it died or froze: any of them may have done it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

# Calls that were lost on a session that is not known to be lost itself yet.
_MOST_LOST = 64


class Suspect(Protocol):
    """Something under way on a worker."""

    @property
    def id(self) -> int:
        """Its number on the session."""
        ...

    @property
    def strikes(self) -> int:
        """Workers that have died with its request before."""
        ...

    @property
    def proven(self) -> bool:
        """Whether it has come further than where they did."""
        ...


@dataclass(slots=True, eq=False)
class Call:
    """A call with one answer, which alone proves it harmless. `size`: inputs to embed; `id` is 0 until it is made."""

    size: int = 0
    strikes: int = 0
    id: int = 0
    proven: bool = False


class Suspects:
    """Those of one session."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        # Calls end with the connection like streams, but some are told of that before the session itself is.
        self._lost: deque[Call] = deque(maxlen=_MOST_LOST)
        # Strikes of those that were unproven when the worker last died or froze, by their ids.
        self._then: dict[int, int] = {}

    def begin(self, call: Call) -> None:
        """A call is made."""
        self._calls[call.id] = call

    def end(self, call: Call, *, lost: bool) -> None:
        """A call has its answer, or has failed; `lost`: it is not known whether the worker lives."""
        if self._calls.pop(call.id, None) is not None and lost:
            self._lost.append(call)

    def note(self, streams: Iterable[Suspect]) -> None:
        """The worker has died or frozen, with these streams and all calls."""
        there = (*streams, *self._calls.values(), *self._lost)
        self._then = {each.id: each.strikes for each in there if not each.proven}

    def reset(self) -> None:
        """A new connection has none of the calls before."""
        self._calls.clear()
        self._lost.clear()

    def rivals(self, one: Suspect) -> int:
        """How many others were as suspicious as this one when the worker last died or froze."""
        return sum(strikes >= one.strikes for other, strikes in self._then.items() if other != one.id)

    def has_call(self, strikes: int) -> bool:
        """Whether a call is under way whose request has so many strikes."""
        return any(call.strikes >= strikes for call in self._calls.values())
