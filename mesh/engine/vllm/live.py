"""One request in the vLLM engine: its rows, and the tokens that wait for credit."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from mesh.engine.base import Event, Request
from mesh.engine.output import OutputTracker, RawLogprob


class Live:
    """What vLLM has told of a request, on its way out.

    vLLM cannot pause a row: while there is no credit its tokens wait here, at most as many as the answer may have.
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

    def take(self, events: list[Event], choice: int, output: Any) -> None:
        """New tokens of a choice: vLLM's CompletionOutput."""
        logprobs = output.logprobs
        for place, token_id in enumerate(output.token_ids):
            raw = None if logprobs is None else _raw(logprobs[place], token_id, self.request.output.logprobs or 0)
            self._held.append((choice, token_id, raw))
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


def _raw(found: Any, token_id: int, count: int) -> RawLogprob:
    """vLLM maps ids to values with ranks, the chosen token's besides the likeliest ones."""
    ranked = sorted(found.items(), key=lambda item: item[1].rank)
    return found[token_id].logprob, [(other, value.logprob) for other, value in ranked[:count]]
