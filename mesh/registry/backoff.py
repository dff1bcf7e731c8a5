"""How long to wait before trying again."""

from __future__ import annotations

import random


class Backoff:
    """Doubling waits with jitter, in seconds, so that a thousand clients of one etcd do not come back at once."""

    def __init__(self, first: float = 0.1, most: float = 2.0) -> None:
        self.first = first
        self.most = most
        self._next = first

    def reset(self) -> None:
        """All is well: the next failure waits briefly again."""
        self._next = self.first

    def next(self) -> float:
        """The wait after one more failure: between a half and the whole of the current step."""
        step, self._next = self._next, min(self.most, self._next * 2)
        return step * random.uniform(0.5, 1.0)
