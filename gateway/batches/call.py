"""One request through the whole application, as if a client had sent it: what is true of clients' requests, such as
limits of keys, queues and failover, is true of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.exchange import INSIDE_KEY, AsgiApp, Inside

Caller = Callable[[str, bytes, str, Inside], Awaitable["Reply"]]
"""Sends a body to a path, with a request id, for somebody."""


@dataclass
class Reply:
    """An answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""


def caller(app: AsgiApp) -> Caller:
    """Sends requests to an application of ASGI."""

    async def call(path: str, body: bytes, request_id: str, inside: Inside) -> Reply:
        reply = Reply()
        parts: list[bytes] = []
        unread = [body]
        given_up = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await given_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            else:
                parts.append(message.get("body", b""))

        answering = asyncio.ensure_future(app(_scope(path, len(body), request_id, inside), receive, send))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            given_up.set()  # as a client that hangs up: whatever is under way ends in order
            await asyncio.gather(answering, return_exceptions=True)
            raise
        reply.body = b"".join(parts)
        return reply

    return call


def _scope(path: str, length: int, request_id: str, inside: Inside) -> dict[str, Any]:
    headers = {"content-type": "application/json", "content-length": str(length), "x-request-id": request_id}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": None,
        "server": None,
        "extensions": {},
        INSIDE_KEY: inside,
    }
