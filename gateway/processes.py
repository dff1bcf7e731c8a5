"""The processes behind one port, as each of them sees the others: their metrics on one page, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

# A sibling that starts, or hangs, is left out of the page.
_SIBLING_LIMIT = 1.0


def watch_end(pipe: int, stop: asyncio.Event) -> None:
    """Set `stop` when the other end of the pipe is closed: when the supervisor is gone, even one that was killed."""
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(pipe)
        stop.set()

    loop.add_reader(pipe, on_end)


@dataclass(frozen=True)
class Seat:
    """The place of one process. `index` from 0 to `count` - 1; a process that is started again has the same seat.

    socket: where it listens. folder: where each has a Unix socket for its metrics, named by its index. parent: the
    reading end of a pipe that closes when the supervisor is gone.
    """

    index: int
    count: int
    socket: socket.socket
    folder: Path
    parent: int

    @contextlib.asynccontextmanager
    async def tell(self, registry: CollectorRegistry) -> AsyncGenerator[None]:
        """Give the siblings our metrics, for as long as the block lasts."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            del reader
            with contextlib.suppress(ConnectionError):
                writer.write(generate_latest(registry))
                await writer.drain()
            writer.close()

        path = self._path(self.index)
        path.unlink(missing_ok=True)  # of the process that had the seat before
        async with await asyncio.start_unix_server(answer, path):
            yield

    async def collect(self, registry: CollectorRegistry) -> bytes:
        """The metrics of all, each sample with the label `process`. Sums over it go on rising when one starts again."""
        others = [index for index in range(self.count) if index != self.index]
        pages = await asyncio.gather(*(self._ask(index) for index in others))
        return merge({self.index: generate_latest(registry), **dict(zip(others, pages, strict=True))})

    async def _ask(self, index: int) -> bytes:
        try:
            async with asyncio.timeout(_SIBLING_LIMIT):
                reader, writer = await asyncio.open_unix_connection(self._path(index))
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    def _path(self, index: int) -> Path:
        return self.folder / str(index)


def merge(pages: dict[int, bytes]) -> bytes:
    """Pages in Prometheus's text format as one: each family once, each sample with the label of its process."""
    families: dict[str, list[str]] = {}
    for index in sorted(pages):
        family: list[str] = []
        for line in pages[index].decode().splitlines():
            if line.startswith("# HELP "):
                family = families.setdefault(line.split(" ", 3)[2], [])
            if not line.startswith("#"):
                family.append(_labelled(line, index))
            elif not family or family[-1].startswith("#"):
                family.append(line)
    return "".join(f"{line}\n" for family in families.values() for line in family).encode()


def _labelled(sample: str, index: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{index}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{process="{index}"}} {value}'
