"""For engines whose work happens elsewhere: what arrives in one turn of the event loop makes one step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from mesh.engine.base import Event, Load, Step, StepListener


class Steps:
    """Gathers events and reports them. Everything runs on the event loop."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self.number = 0
        self.listener: StepListener | None = None
        self._load = load
        self._events: list[Event] = []

    def report(self, events: Sequence[Event]) -> None:
        """Put events into the step of this turn."""
        if events and not self._events:
            asyncio.get_running_loop().call_soon(self._flush)
        self._events += events

    def discard(self, key: int) -> None:
        """Report nothing more of a request."""
        self._events = [event for event in self._events if event.key != key]

    def _flush(self) -> None:
        events, self._events = self._events, []
        if events and self.listener is not None:
            self.number += 1
            self.listener(Step(self.number, events, self._load()))
