"""An event loop whose time is its own: instead of waiting for the next timer it jumps there."""

from __future__ import annotations

import asyncio
from typing import Any


class Stuck(Exception):
    """Nothing will ever happen any more."""


class VirtualLoop(asyncio.BaseEventLoop):
    """No sockets, no threads, no wall clock: the same program gives the same events at the same times."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self  # BaseEventLoop asks it for events of the outside, of which there are none

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Pass the time until the next timer."""
        if timeout is None:
            raise Stuck
        self._now += max(0.0, timeout)
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
