"""An HTTP client down to the socket: what a browser or an SDK hides (chunks, hang-ups, bad bodies) is the subject here.

One connection per request; HTTP/1.1 with Content-Length or chunked answers, which is what the gateway speaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

# The longest silence between two reads that a test accepts; far above every time-out of the mesh.
SILENCE_LIMIT = 60.0
CHAT = "/v1/chat/completions"


class ConnectionBroke(Exception):
    """The server ended the connection in the middle of an answer."""


@dataclass(frozen=True)
class Response:
    """A complete answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The error in OpenAI's envelope; fails if there is none."""
        error: dict[str, Any] = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


class Connection:
    """One request on one connection. `async with` closes it, however far the answer has come."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the socket at once: with FIN, or with RST as a killed client's machine may send it."""
        if reset:
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a request; returns when the kernel has taken it."""
        await self.send_head(method, path, {"content-length": str(len(body)), **(headers or {})})
        self._writer.write(body)
        await self._writer.drain()

    async def write(self, data: bytes) -> None:
        """Send more bytes of a body, as they are; a server that has answered may not take them."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def send_head(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Send the request's head only, with exactly these headers besides the usual."""
        fields = {"host": f"{self._host}:{self._port}", "content-type": "application/json", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
        await self._writer.drain()

    async def read_head(self) -> int:
        """Read status and headers; returns the status."""
        head = await self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        return self.status

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body in the pieces in which it was sent; ends where it ends, raises ConnectionBroke if cut."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(await self._until(b"\r\n"), 16):
                yield (await self._exactly(size + 2))[:-2]
            await self._until(b"\r\n")
        else:
            yield await self._exactly(int(self.headers.get("content-length", "0")))

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def events(self) -> AsyncIterator[str]:
        """The data of each SSE event; comments are skipped."""
        pending = b""
        async for piece in self.pieces():
            pending += piece
            while b"\n\n" in pending:
                event, pending = pending.split(b"\n\n", 1)
                lines = event.decode().split("\n")
                data = [line.removeprefix("data:").removeprefix(" ") for line in lines if line.startswith("data:")]
                if data:
                    yield "\n".join(data)
        assert not pending, f"bytes after the last event: {pending!r}"

    async def _until(self, end: bytes) -> bytes:
        return await self._limited(self._reader.readuntil(end))

    async def _exactly(self, size: int) -> bytes:
        return await self._limited(self._reader.readexactly(size))

    async def _limited(self, reading: Awaitable[bytes]) -> bytes:
        try:
            return await asyncio.wait_for(reading, SILENCE_LIMIT)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ConnectionBroke(repr(error)) from error


def encode(body: object) -> bytes:
    """A body: bytes as they are, everything else as JSON."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


async def fetch(
    url: str, method: str, path: str, body: object = b"", *, headers: Mapping[str, str] | None = None
) -> Response:
    """One request, its whole answer."""
    async with Connection(url) as connection:
        await connection.send(method, path, encode(body), headers)
        await connection.read_head()
        return Response(connection.status, connection.headers, await connection.body())


async def get(url: str, path: str) -> Response:
    """GET."""
    return await fetch(url, "GET", path)


async def post(url: str, body: object, path: str = CHAT) -> Response:
    """POST, to the chat route unless told otherwise."""
    return await fetch(url, "POST", path, body)


@asynccontextmanager
async def opened(url: str, body: object, path: str = CHAT) -> AsyncGenerator[Connection]:
    """A connection on which a request was sent and nothing read yet."""
    async with Connection(url) as connection:
        await connection.send("POST", path, encode(body))
        yield connection
