"""Answers of the chat API, and of Anthropic's, in a form in which two of them can be compared byte for byte."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.rawhttp import CHAT, Connection, opened, post

Body = dict[str, Any]
MESSAGES = "/v1/messages"
OnChunk = Callable[[int], Awaitable[None]]


@dataclass
class Answer:
    """All that a client can see of an answer, apart from `id` and `created`, which name the request.

    `chunks` is the sequence as it was streamed (one body if it was not); the rest is put together from it.
    """

    status: int = 0
    chunks: list[Body] = field(default_factory=list[Body], repr=False)
    texts: dict[int, str] = field(default_factory=dict[int, str])
    reasons: dict[int, str] = field(default_factory=dict[int, str])
    # Log probabilities in order, taken out of `chunks`: other rows in a step change the rounding of a real model.
    logprobs: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    usage: Body | None = None
    tokens: int = 0  # chunks with content so far
    complete: bool = False  # [DONE] was read, or the body of an answer that is not streamed

    @property
    def seen(self) -> tuple[Any, ...]:
        """What must be equal between a disturbed and an undisturbed run.

        Which prompt tokens came from the prefix cache is a fact about the worker, not about the answer.
        """
        counts = {name: value for name, value in (self.usage or {}).items() if name != "prompt_tokens_details"}
        return self.status, self.texts, self.reasons, counts, self.complete

    def add(self, chunk: Body) -> None:
        """Take a chunk of a stream, or the one body."""
        assert "error" not in chunk, chunk
        self.chunks.append({name: value for name, value in chunk.items() if name not in ("id", "created")})
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self._take(choice["index"], choice.get("delta") or choice.get("message") or {}, choice)

    def add_event(self, event: Body) -> None:
        """Take an event of Anthropic's API, as a chunk of the one choice that there is."""
        kind = event["type"]
        assert kind != "error", event
        assert not self.complete, f"after the end: {event}"
        message: Body = event.get("message", {})
        message.pop("id", None)
        delta: Body = event.get("delta", {})
        for usage in (message.pop("usage", None), event.pop("usage", None)):
            if usage is not None:
                # Which of them came from the cache is a fact about the worker.
                usage["input_tokens"] += usage.pop("cache_read_input_tokens")
                self.usage = usage
        self.chunks.append({"choices": [{"index": 0, "event": event}]})
        self.texts[0] = self.texts.get(0, "") + delta.get("text", "")
        self.tokens += "text" in delta
        if "stop_reason" in delta:
            self.reasons[0] = delta["stop_reason"]
        self.complete = kind == "message_stop"

    def _take(self, index: int, part: Body, choice: Body) -> None:
        assert index not in self.reasons, "a choice went on after its end"
        self.tokens += bool(part.get("content"))
        self.texts[index] = self.texts.get(index, "") + (part.get("content") or "")
        logprobs: Body = choice.get("logprobs") or {"content": []}
        for entry in logprobs["content"]:
            values = self.logprobs.setdefault(index, [])
            values.append(entry.pop("logprob"))
            values += [likely.pop("logprob") for likely in entry["top_logprobs"]]
        if choice.get("finish_reason"):
            self.reasons[index] = choice["finish_reason"]


async def ask(url: str, body: Body, on_token: OnChunk | None = None) -> Answer:
    """The answer to a request, streamed if the body says so. `on_token` is told how many chunks had content so far."""
    if not body.get("stream"):
        response = await post(url, body)
        assert response.status == 200, response
        answer = Answer(response.status, complete=True)
        answer.add(response.json())
        return answer
    async with opened(url, body, MESSAGES if "stop_sequences" in body else CHAT) as connection:
        return await read_stream(connection, on_token)


async def read_stream(connection: Connection, on_token: OnChunk | None = None) -> Answer:
    """Read a stream to its end. Fails on an error event, an answer that is none, and on anything after [DONE]."""
    answer = Answer(await connection.read_head())
    assert answer.status == 200, (answer.status, await connection.body())
    assert connection.headers["content-type"].startswith("text/event-stream")
    async for data in connection.events():
        assert not answer.complete, f"after [DONE]: {data}"
        if data == "[DONE]":
            answer.complete = True
            continue
        before = answer.tokens
        event: Body = json.loads(data)
        (answer.add_event if "type" in event else answer.add)(event)
        if on_token is not None and answer.tokens > before:
            await on_token(answer.tokens)
    return answer


def messages(model: str, text: str = "Hello", **options: Any) -> Body:
    """A streamed request of Anthropic's API, which is told by its stop sequences."""
    said = [{"role": "user", "content": text}]
    return {
        "model": model,
        "stream": True,
        "max_tokens": 1000,
        "messages": said,
        "temperature": 0,
        "stop_sequences": [],
        **options,
    }


def chat(model: str, text: str = "Hello", **options: Any) -> Body:
    """A streamed request for one user message; options override."""
    body: Body = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
    }
    body |= options
    if not body["stream"]:
        del body["stream_options"]
    return body
