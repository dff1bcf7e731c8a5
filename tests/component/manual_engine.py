"""An engine driven by hand: a test decides when a step happens and what it holds.

For what the scripted engine, which runs by itself, cannot show: the exact number of messages, events in the middle of
a blocked write, a submit that hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mesh.engine.base import Delta, Engine, Event, Load, ModelInfo, Request, Started, Step, StepListener

INFO = ModelInfo(
    name="manual",
    fingerprint="manual-1",
    context_length=4096,
    capabilities=frozenset({"completion", "chat", "resume"}),
    vocab_size=1000,
    eos_token_ids=(2,),
)


class ManualEngine(Engine):
    """Records what it is asked; `gate` closed makes submits wait, `refusal` makes them fail."""

    name = "manual"

    def __init__(self, models: Sequence[ModelInfo] = (INFO,)) -> None:
        self.requests: dict[int, Request] = {}
        self.cancelled: list[int] = []
        self.granted: list[tuple[int, int]] = []
        self.refusal: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.submitting = 0
        self.stopped = False
        self._models = models
        self._listener: StepListener | None = None
        self._steps = 0

    @property
    def models(self) -> Sequence[ModelInfo]:
        return self._models

    async def start(self, listener: StepListener) -> None:
        self._listener = listener

    async def stop(self) -> None:
        self.stopped = True

    async def submit(self, request: Request) -> None:
        self.submitting += 1
        try:
            await self.gate.wait()
        finally:
            self.submitting -= 1
        if self.refusal is not None:
            raise self.refusal
        self.requests[request.key] = request

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)
        self.requests.pop(key, None)

    def grant(self, key: int, tokens: int) -> None:
        self.granted.append((key, tokens))

    def load(self) -> Load:
        return Load(running=len(self.requests), slots=8, steps=self._steps)

    def stats(self) -> dict[str, float]:
        return {"steps": self._steps}

    # For tests

    @property
    def keys(self) -> list[int]:
        """Keys of the live requests, oldest first."""
        return list(self.requests)

    def step(self, *events: Event) -> int:
        """Report one step; returns its number."""
        assert self._listener is not None, "the engine was not started"
        self._steps += 1
        self._listener(Step(self._steps, list(events), self.load()))
        return self._steps

    def step_all(self, token: int, text: str) -> int:
        """Report one step with one token of every live request."""
        return self.step(*(Delta(key, 0, (token,), text, position=token) for key in self.keys))

    def start_all(self) -> int:
        """Report one step that starts every live request."""
        return self.step(*(Started(key, prompt_tokens=3) for key in self.keys))
