"""Allowances, as pure functions of a clock that the caller reads.

A bucket refills steadily and holds one minute's allowance. So a key that was idle may spend a whole minute's allowance
at once, and over any `t` seconds at most `limit * (1 + t / 60)`. It may go into debt, because the tokens of an answer
are known when they are there: then nothing is allowed until the debt is paid, and in the long run the limit holds.
"""

from __future__ import annotations

import math


class Bucket:
    """An allowance of `limit` a minute. Every `now` is in seconds of one monotonic clock."""

    __slots__ = ("_at", "_level", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def level(self, now: float) -> float:
        """What may be taken now; below zero it is a debt."""
        return min(self.limit, self._level + max(0.0, now - self._at) * self.limit / 60)

    def take(self, amount: float, now: float) -> None:
        """Take that much, into debt if need be."""
        self._level = self.level(now) - amount
        self._at = max(self._at, now)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much is there, 0 if it is; `amount` is at most the limit."""
        return max(0.0, (amount - self.level(now)) * 60 / self.limit)

    def remaining(self, now: float) -> int:
        """What may be taken, for people."""
        return max(0, math.floor(self.level(now) + 1e-9))

    def full_in(self, now: float) -> float:
        """Seconds until it is full."""
        return self.wait(self.limit, now)


def duration(seconds: float) -> str:
    """As the headers of OpenAI have it: 120ms, 1.5s, 6m0s, 1h2m0s."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{text}{rest / 1000:g}s"
