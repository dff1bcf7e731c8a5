"""The bytes of files: in a directory, or wherever fsspec writes to, such as S3."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from gateway.store.outage import outage

_CHUNK: Final = 256 * 1024
# Lines that are read at a time, in bytes.
_LINES: Final = 1024 * 1024


class Contents:
    """`where`: a directory, a URL of fsspec, or empty for a directory of the user's. It is used, and fsspec imported,
    from the first file on. All waits are other threads'. Raises MeshError (store_unavailable)."""

    def __init__(self, where: str = "") -> None:
        self._where = where or _default()
        self._opened: tuple[Any, str] | None = None

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Write a content, in place of an earlier one; returns its bytes."""
        size = 0
        with self._errors():
            file = await asyncio.to_thread(self._open, name, "wb")
            try:
                async for chunk in chunks:
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
            except BaseException:
                await asyncio.to_thread(file.close)
                await asyncio.to_thread(self._remove, name)
                raise
            await asyncio.to_thread(file.close)
        return size

    async def read(self, name: str) -> AsyncGenerator[bytes]:
        """A content, in pieces."""
        async with self._reading(name) as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk

    async def lines(self, name: str) -> AsyncGenerator[tuple[int, bytes]]:
        """The lines of a content that are not empty, with their numbers from 1."""
        number = 0
        async with self._reading(name) as file:
            while lines := await asyncio.to_thread(file.readlines, _LINES):
                for line in lines:
                    number += 1
                    if line.strip():
                        yield number, line

    async def remove(self, name: str) -> None:
        """Remove a content, if there is one."""
        with self._errors():
            await asyncio.to_thread(self._remove, name)

    @asynccontextmanager
    async def _reading(self, name: str) -> AsyncGenerator[IO[bytes]]:
        with self._errors():
            file = await asyncio.to_thread(self._open, name, "rb")
            try:
                yield file
            finally:
                await asyncio.to_thread(file.close)

    def _open(self, name: str, mode: str) -> IO[bytes]:
        files, root = self._system()
        return files.open(f"{root}/{name}", mode)

    def _remove(self, name: str) -> None:
        files, root = self._system()
        with suppress(FileNotFoundError):
            files.rm_file(f"{root}/{name}")

    def _system(self) -> tuple[Any, str]:
        """The file system, and the folder in it."""
        if self._opened is None:
            from fsspec.core import url_to_fs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

            if "://" not in self._where:
                Path(self._where).mkdir(mode=0o700, parents=True, exist_ok=True)
            files, root = url_to_fs(self._where)  # pyright: ignore[reportUnknownVariableType]
            self._opened = files, str(root).rstrip("/")  # pyright: ignore[reportUnknownArgumentType]
        return self._opened

    def _errors(self) -> _Errors:
        return _Errors(self._where)


class _Errors:
    """Makes MeshErrors of what file systems raise."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | ImportError | ValueError):
            raise outage("files' store", f"{self._where}: {str(error)[:300]}") from error


def _default() -> str:
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return str(Path(home).expanduser() / "inference-mesh" / "files")
