"""A provider's HTTP server on a free port of loopback, whose every answer and misbehaviour a test writes down.

An answer is a list of what happens: bytes are sent, an event is waited for, CUT breaks the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self


class Cut:
    """Break the connection."""


CUT: Final = Cut()
Act = bytes | asyncio.Event | Cut


@dataclass
class Reply:
    """An answer. `whole` ends it properly; else the connection ends after the last act."""

    acts: Sequence[Act]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    whole: bool = True


@dataclass
class Seen:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeProvider:
    """`async with` it. Replies are used one after the other, the last one again and again; or `answer` makes them."""

    def __init__(self, *replies: Reply, answer: Callable[[Seen], Reply] | None = None) -> None:
        self.replies = list(replies)
        self._answer = answer
        self.seen: list[Seen] = []
        self.sent = 0  # bytes of answers that the client's side has taken
        self.hung_up = 0  # clients that went away in the middle of an answer
        self.connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._request(reader):
                    if not await self._reply(self._next(), reader, writer):
                        return
        finally:
            self._tasks.discard(task)
            writer.close()

    def _next(self) -> Reply:
        if self._answer is not None:
            return self._answer(self.seen[-1])
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    async def _request(self, reader: asyncio.StreamReader) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.seen.append(Seen(first.split(" ")[1], headers, body))
        return True

    async def _reply(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can serve another request."""
        head = f"HTTP/1.1 {reply.status} So\r\ntransfer-encoding: chunked\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items()) + "\r\n"
        writer.write(head.encode())
        gone = asyncio.create_task(reader.read(1))  # returns when the client hangs up
        try:
            for act in reply.acts:
                if isinstance(act, Cut):
                    writer.transport.abort()
                    return False
                acting = asyncio.create_task(self._act(act, writer))
                await asyncio.wait({gone, acting}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    self.hung_up += 1
                    acting.cancel()
                    return False
        finally:
            gone.cancel()
            await asyncio.wait({gone})
        writer.write(b"0\r\n\r\n" if reply.whole else b"")
        await writer.drain()
        return reply.whole

    async def _act(self, act: bytes | asyncio.Event, writer: asyncio.StreamWriter) -> None:
        if isinstance(act, asyncio.Event):
            await act.wait()
            return
        writer.write(b"%x\r\n%b\r\n" % (len(act), act))
        await writer.drain()
        self.sent += len(act)


def sse(data: object, event: str = "") -> bytes:
    """A server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()


def openai_chunk(text: str | None = None, *, index: int = 0, finish: str | None = None, **delta: Any) -> bytes:
    """A chunk of a chat answer."""
    content = {} if text is None else {"content": text}
    return sse({"choices": [{"index": index, "delta": {**content, **delta}, "finish_reason": finish}]})


def openai_usage(prompt: int, completion: int, cached: int = 0) -> bytes:
    """The chunk with the counts."""
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return sse({"choices": [], "usage": usage})


def openai_answer(*texts: str, finish: str = "stop") -> list[bytes]:
    """A whole chat answer."""
    head = openai_chunk("", role="assistant")
    return [head, *map(openai_chunk, texts), openai_chunk(finish=finish), openai_usage(7, 3, 2), sse("[DONE]")]


def anthropic_event(kind: str, **fields: Any) -> bytes:
    """An event of the Messages API."""
    return sse({"type": kind, **fields}, kind)


def anthropic_answer(*texts: str, finish: str = "end_turn", sequence: str | None = None) -> list[bytes]:
    """A whole message."""
    counts = {
        "input_tokens": 4,
        "cache_read_input_tokens": 2,
        "cache_creation_input_tokens": 1,
        "output_tokens": 1,
    }
    return [
        anthropic_event("message_start", message={"usage": counts}),
        anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        anthropic_event("ping"),
        *(
            anthropic_event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
            for text in texts
        ),
        anthropic_event("content_block_stop", index=0),
        anthropic_event(
            "message_delta", delta={"stop_reason": finish, "stop_sequence": sequence}, usage={"output_tokens": 3}
        ),
        anthropic_event("message_stop"),
    ]


def google_chunk(*parts: dict[str, Any], finish: str | None = None, index: int = 0) -> bytes:
    """A chunk of a generateContent stream."""
    candidate: dict[str, Any] = {"index": index, "content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    counts = {
        "promptTokenCount": 7,
        "cachedContentTokenCount": 2,
        "candidatesTokenCount": 2,
        "thoughtsTokenCount": 1,
    }
    return sse({"candidates": [candidate], "usageMetadata": counts})


def google_answer(*texts: str, finish: str = "STOP") -> list[bytes]:
    """A whole answer."""
    thought = google_chunk({"text": "hm", "thought": True})
    return [thought, *(google_chunk({"text": text}) for text in texts), google_chunk(finish=finish)]


ANSWERS: dict[str, Callable[..., list[bytes]]] = {
    "openai": openai_answer,
    "anthropic": anthropic_answer,
    "google": google_answer,
}
