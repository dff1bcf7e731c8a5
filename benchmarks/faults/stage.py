"""Where a scenario plays: a running system, what it answers undisturbed, and the score of what clients saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.systems.answer import Answer, OnToken, ask
from benchmarks.systems.system import Setup, System

_LEARNT_FROM = 3
_PAUSE = 0.05
_ROWS_LIMIT = 3.0


@dataclass(frozen=True)
class Plan:
    """How much is done: the tokens after which a fault strikes, seconds of an outage, seconds that clients wait."""

    moments: tuple[int, ...]
    tokens: int
    outage: float
    patience: float


@dataclass
class Outcome:
    """What clients saw of one scenario on one system. `extra` is in seconds, of identical answers."""

    asked: int = 0
    identical: int = 0
    # What clients saw instead, and how often.
    troubles: dict[str, int] = field(default_factory=dict[str, int])
    extra: list[float] = field(default_factory=list[float])
    notes: list[str] = field(default_factory=list[str])
    # Why there is nothing to score, in words.
    absent: str = ""


class Stage:
    """A system on which scenarios play, one after the other; each has an outcome of its own."""

    def __init__(self, system: System, plan: Plan) -> None:
        self.system = system
        self.plan = plan
        self.outcome = Outcome()
        self.reference = Answer()

    async def learn(self) -> None:
        """Ask without any fault, to know the answer and how long it takes."""
        answers = [await self.ask() for _ in range(_LEARNT_FROM)]
        self.reference = answers[0]
        self.reference.duration = median(answer.duration for answer in answers)
        for answer in answers:
            if trouble := answer.differs(self.reference):
                raise RuntimeError(f"undisturbed answers differ: {trouble}")

    async def ask(
        self,
        on_token: OnToken | None = None,
        *,
        gateway: int = 0,
        headers: Mapping[str, str] | None = None,
        before: Answer | None = None,
        **fields: Any,
    ) -> Answer:
        """One answer, or what is left of it after `before`; see System.body for the fields."""
        body = self.system.body(**{"max_tokens": self.plan.tokens} | fields)
        url, patience = self.system.url(gateway), self.plan.patience
        return await ask(url, body, on_token, patience=patience, headers=headers, before=before)

    def take(self, answer: Answer, reference: Answer | None = None) -> None:
        """Score an answer against the undisturbed one."""
        reference = reference or self.reference
        trouble = answer.differs(reference)
        self.outcome.asked += 1
        if trouble:
            self.outcome.troubles[trouble] = self.outcome.troubles.get(trouble, 0) + 1
        else:
            self.outcome.identical += 1
            self.outcome.extra.append(answer.duration - reference.duration)

    async def struck(self, after: int, strike: Callable[[int], Awaitable[None] | None]) -> None:
        """Ask, and do something to the worker that answers once so many tokens are there; score the answer."""
        self.system.forget_serving()

        async def now() -> None:
            result = strike(await self.system.serving())
            if result is not None:
                await result

        async def on_token(count: int) -> None:
            if count == after:
                await now()

        asked = asyncio.create_task(self.ask(on_token))
        if after == 0:
            await now()
        self.take(await asked)

    @asynccontextmanager
    async def traffic(self, clients: int = 2) -> AsyncGenerator[None]:
        """Clients that ask again and again while the context lasts; all answers are scored."""
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                self.take(await self.ask())
                await asyncio.sleep(_PAUSE)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
            try:
                yield
            finally:
                stop.set()

    async def forgotten(self) -> None:
        """Note requests that workers still run though no client waits."""
        deadline = time.monotonic() + _ROWS_LIMIT
        while (rows := await self.system.live_rows()) and time.monotonic() < deadline:
            await asyncio.sleep(_PAUSE)
        if rows:
            self.outcome.notes.append(f"{rows} requests still run {_ROWS_LIMIT:g} s later")


Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """A fault by name. The docstring of `play` says what happens and what a user must see.

    `why` tells why our own answers cannot be identical, where they cannot.
    """

    name: str
    play: Play
    setup: Callable[[], Setup]
    why: str

    @property
    def text(self) -> str:
        """What happens and what a user must see."""
        return " ".join((self.play.__doc__ or "").split())


def scenario(setup: Callable[[], Setup] = Setup, *, why: str = "") -> Callable[[Play], Scenario]:
    """Make a scenario of a function, with its name. `setup` may raise Inexpressible."""
    return lambda play: Scenario(play.__name__.replace("_", "-"), play, setup, why)
