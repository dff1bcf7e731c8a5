"""A remote engine in front of a fake provider, with everything that it reports."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mesh.engine.base import (
    Chat,
    Delta,
    Event,
    Failed,
    Finished,
    Message,
    Request,
    Sampling,
    Started,
    Step,
)
from mesh.engine.remote.engine import RemoteEngine
from mesh.engine.remote.options import RemoteOptions
from mesh.errors import MeshError
from tests.component.fake_provider import FakeProvider
from tests.harness import eventually

KEY = "sk-very-secret-0123456789"
_keys = itertools.count(1)


def chat(*messages: Message, **fields: Any) -> Chat:
    """A conversation, a greeting unless messages are given."""
    return Chat(messages or (Message("user", ("Hello",)),), **fields)


def request(prompt: Any = None, *, sampling: dict[str, Any] | None = None, **fields: Any) -> Request:
    """A request whose seed was drawn unless `sampling` has one."""
    given = sampling or {}
    options: dict[str, Any] = {"drawn_seed": "seed" not in given, "seed": 5, **given}
    key = next(_keys)
    return Request(key, f"r{key}", "served", prompt or chat(), Sampling(**options), **fields)


class Rig:
    """A started engine and its events by request."""

    def __init__(self, engine: RemoteEngine, provider: FakeProvider) -> None:
        self.engine = engine
        self.provider = provider
        self.steps: list[Step] = []

    def listen(self, step: Step) -> None:
        """The engine's listener."""
        self.steps.append(step)

    def events(self, key: int) -> list[Event]:
        """The events of a request so far."""
        return [event for step in self.steps for event in step.events if event.key == key]

    def text(self, key: int, choice: int = 0) -> str:
        """Its text so far."""
        deltas = [event for event in self.events(key) if isinstance(event, Delta)]
        return "".join(delta.text for delta in deltas if delta.choice == choice)

    async def ask(self, wanted: Request | None = None) -> list[Event]:
        """All events of a request, from its start to its end."""
        wanted = wanted or request()
        await self.engine.submit(wanted)
        await eventually(lambda: self.ended(wanted.key), within=10)
        return self.events(wanted.key)

    def ended(self, key: int) -> bool:
        """Whether the last event is there."""
        return any(isinstance(event, Finished | Failed) for event in self.events(key))

    async def error(self, wanted: Request | None = None) -> MeshError:
        """Why a request failed after it was accepted."""
        last = (await self.ask(wanted))[-1]
        assert isinstance(last, Failed), last
        return last.error

    def started(self, key: int) -> Started:
        """Its first event."""
        first = self.events(key)[0]
        assert isinstance(first, Started), first
        return first


@asynccontextmanager
async def running(provider: FakeProvider, name: Any = "openai", **options: Any) -> AsyncGenerator[Rig]:
    """An engine that speaks the API `name` with the provider."""
    given: dict[str, Any] = {"base_url": provider.url + "/v1", "key": KEY, "timeout": 10.0, **options}
    engine = RemoteEngine(RemoteOptions(name="served", model="their-model", provider=name, **given))
    rig = Rig(engine, provider)
    await engine.start(rig.listen)
    try:
        yield rig
    finally:
        await engine.stop()
