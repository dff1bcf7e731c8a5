"""Anthropic's official SDK on a gateway with a worker of the test's own, and how its types take every answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
from pydantic import BaseModel

from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker

USER: list[Any] = [{"role": "user", "content": "hi"}]


def asked(**fields: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "m", "max_tokens": 100, "messages": USER, **fields}


@asynccontextmanager
async def sdk(worker: FakeWorker, **settings: Any) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    """The asynchronous client of a gateway with this worker."""
    key = settings.pop("key", "none")
    async with worker, GatewayUnderTest(**settings) as gateway:
        await gateway.add(worker)
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=key, max_retries=0) as client:
            yield client


def events_of(text: str) -> list[Any]:
    """The data of a stream's events, whose names must be their types."""
    found: list[Any] = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        event = json.loads(data.removeprefix("data: "))
        assert event["type"] == name.removeprefix("event: ")
        found.append(event)
    return found


def check(kind: type[BaseModel], data: Any) -> Any:
    """An object as the SDK's type, strictly; fails for what the type lacks."""
    text = data if isinstance(data, (bytes, str)) else json.dumps(data)
    found = kind.model_validate_json(text, strict=True)
    assert json.loads(found.model_dump_json(exclude_unset=True)) == json.loads(text)
    return found
