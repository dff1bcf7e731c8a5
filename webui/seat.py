"""A battle in the memory of the process that serves it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from webui.battle import LiveBattle
from webui.records import Answer


@dataclass(slots=True, eq=False)
class Seat:
    """A battle that goes on, and what this process knows about it besides: its tasks, who watches, what is not kept."""

    live: LiveBattle
    used: float
    tasks: list[asyncio.Task[Answer]] = field(default_factory=list["asyncio.Task[Answer]"])
    watchers: int = 0
    opened: bool = False  # in the store
    kept: int = 0  # turns, from the first one, that are in the store as they are here
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def size(self) -> int:
        """Bytes of its images."""
        return sum(len(picture.data) for turn in self.live.turns for picture in turn.pictures)

    def news(self) -> None:
        """Wake those who watch."""
        self.changed.set()
        self.changed = asyncio.Event()
