"""A TCP proxy, to cut what runs through it in the ways networks do."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class TcpProxy:
    """Forwards a port of its own to another. `async with` it.

    `blackhole`: connections stay, and new ones are accepted, but nothing gets through. `heal(forget=True)`: new
    connections work, those of before stay dead without an end, as after a middlebox has lost its table.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dead: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    def blackhole(self) -> None:
        """Let nothing through any more."""
        self._open.clear()

    def heal(self, *, forget: bool = False) -> None:
        """Let everything through again; with `forget` only on new connections."""
        if forget:
            self._dead |= self._tasks
        self._open.set()

    async def cut(self) -> None:
        """End all connections."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._forward(reader, writer, task)
        except (asyncio.CancelledError, OSError):
            pass  # cut, by us or by one of the two ends
        finally:
            self._tasks.discard(task)
            self._dead.discard(task)
            writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            ways = [
                asyncio.create_task(self._pump(reader, upstream_writer, task)),
                asyncio.create_task(self._pump(upstream_reader, writer, task)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            upstream_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, owner: asyncio.Task[None]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                if owner in self._dead:
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
