"""One chat answer as a client sees it: what it got, what it was told when something went wrong, how long it took."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from mesh.counted import counted

OnToken = Callable[[int], Awaitable[None]]


@dataclass
class Answer:
    """`error` is empty or what the client saw, in words. `tokens` counts chunks with text; times are seconds."""

    text: str = ""
    reason: str = ""
    usage: tuple[int, int] | None = None  # of the prompt, of the completion
    tokens: int = 0
    complete: bool = False
    error: str = ""
    first_token: float = 0.0
    duration: float = 0.0
    # The id of the last event, if events have one.
    last_id: str = ""

    def differs(self, other: Answer) -> str:
        """In what it is not as the other one, in words; empty if it is."""
        if self.error:
            return self.error
        if self.text != other.text:
            return f"another text ({self.tokens} chunks instead of {other.tokens})"
        if self.reason != other.reason:
            return f"finish reason {self.reason or 'missing'}"
        if self.usage != other.usage:
            return f"usage {self.usage} instead of {other.usage}"
        return "" if self.complete else "no [DONE]"

    def add(self, data: str, now: float = 0.0) -> bool:
        """Take the data of one event, `now` seconds after the request; whether it brought text."""
        if data == "[DONE]":
            self.complete = True
            return False
        try:
            chunk = json.loads(data)
        except ValueError:
            self.error = self.error or f"a chunk that is no JSON after {self.seen}"
            return False
        if "error" in chunk or "choices" not in chunk:
            self.error = self.error or f"error event after {self.seen}"
            return False
        text = ""
        for choice in chunk["choices"]:
            delta: dict[str, Any] = choice.get("delta") or {}
            text += str(delta.get("content") or "")
            self.reason = choice.get("finish_reason") or self.reason
        if usage := chunk.get("usage"):
            self.usage = (usage["prompt_tokens"], usage["completion_tokens"])
        if text:
            self.text += text
            self.tokens += 1
            self.first_token = self.first_token or now
        return bool(text)

    @property
    def seen(self) -> str:
        """How much has come, in words."""
        return counted(self.tokens, "chunk")


async def ask(
    url: str,
    body: Mapping[str, Any],
    on_token: OnToken | None = None,
    *,
    patience: float = 20.0,
    headers: Mapping[str, str] | None = None,
    before: Answer | None = None,
) -> Answer:
    """The streamed answer to a chat request, whatever becomes of it within `patience` seconds.

    `before` is what an earlier connection got of the same answer: it is continued.
    """
    answer = before or Answer()
    answer.error = ""
    sent = time.perf_counter()
    try:
        async with asyncio.timeout(patience):
            await _read(answer, url, body, on_token, headers or {}, sent)
    except TimeoutError:
        answer.error = f"nothing more within {patience:g} s after {answer.seen}"
    except httpx.ConnectError:
        answer.error = "connection refused"
    except httpx.HTTPError:
        answer.error = f"connection broken after {answer.seen}"
    answer.duration += time.perf_counter() - sent
    if not answer.error and not answer.complete:
        answer.error = f"ended without [DONE] after {answer.seen}"
    return answer


async def _read(
    answer: Answer,
    url: str,
    body: Mapping[str, Any],
    on_token: OnToken | None,
    headers: Mapping[str, str],
    sent: float,
) -> None:
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with (
        httpx.AsyncClient(timeout=None) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=asked, headers=headers) as response,
    ):
        if response.status_code != 200:
            answer.error = f"HTTP {response.status_code}"
            return
        event_id = answer.last_id
        async for name, value in _fields(response):
            if name == "id":
                event_id = value
                continue
            answer.last_id = event_id
            if answer.add(value, time.perf_counter() - sent) and on_token is not None:
                await on_token(answer.tokens)


async def _fields(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """The `data` and `id` lines of a stream of events."""
    async for line in response.aiter_lines():
        name, _, value = line.partition(":")
        if name in ("data", "id"):
            yield name, value.strip()
