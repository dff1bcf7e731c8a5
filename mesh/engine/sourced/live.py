"""One request in the engine of a source: its rows, and the tokens that wait for credit."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from mesh.engine.base import Event, Request
from mesh.engine.output import OutputTracker, RawLogprob
from mesh.engine.sourced.source import Piece


class Live:
    """What a source has told of a request, on its way out.

    A source cannot pause a row: while there is no credit its tokens wait here, at most as many as the answer may have.
    """

    def __init__(self, request: Request, tracker: OutputTracker, prompt: list[int]) -> None:
        self.key = request.key
        self.request = request
        self.tracker = tracker
        self.prompt = prompt
        self.credit = request.credit
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.deadline: asyncio.TimerHandle | None = None
        self.started = False
        self._held: deque[tuple[int, int, RawLogprob | None]] = deque()

    @property
    def paused(self) -> bool:
        """Whether tokens wait for credit."""
        return bool(self._held)

    def start(self, events: list[Event], cached_tokens: int) -> None:
        """Its first step."""
        if not self.started:
            self.started = True
            self.tracker.started(events, time.monotonic(), cached_tokens=cached_tokens)

    def take(self, events: list[Event], choice: int, piece: Piece) -> None:
        """New tokens of a choice."""
        scores = piece.logprobs or (None,) * len(piece.token_ids)
        self._held.extend((choice, *told) for told in zip(piece.token_ids, scores, strict=True))
        self.release(events)

    def release(self, events: list[Event]) -> None:
        """Report as many tokens as there is credit for."""
        now = time.monotonic()
        while self._held and not self.tracker.finished and (self.credit is None or self.credit > 0):
            choice, token_id, raw = self._held.popleft()
            if choice not in self.tracker.open_choices:
                continue  # it ended before this token, by a stop string
            if self.credit is not None:
                self.credit -= 1
            if self.tracker.push(events, choice, token_id, now, raw):
                task = self.tasks.pop(choice, None)
                if task is not None and task is not asyncio.current_task():
                    task.cancel()

    def cancel(self) -> None:
        """End its rows."""
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()
        if self.deadline is not None:
            self.deadline.cancel()
