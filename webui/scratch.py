"""Where files of the pages lie while the server runs: uploads, pictures that are shown, tables to be downloaded.

Files are deleted an hour after they were last written or shown. What is kept for longer is in the store, from which
pictures are written again when a page shows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from pathlib import Path
from typing import Final

_KEPT_SECONDS: Final = 3600.0
_SWEEP_SECONDS: Final = 300.0


class Scratch:
    """A folder with room for so many bytes of what people send. `shown`: what pages may show; `uploads`: Gradio's own,
    of which pages are shown nothing that a browser could execute."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.shown = folder / "shown"
        self.uploads = folder / "uploads"
        self._most = most_bytes
        self._coming = 0
        for each in (self.shown, self.uploads):
            each.mkdir(exist_ok=True)

    @contextlib.asynccontextmanager
    async def room(self, size: int) -> AsyncGenerator[bool]:
        """Whether there is room for so many bytes that come within the block."""
        there = await asyncio.to_thread(self.size) + self._coming + size <= self._most
        self._coming += size if there else 0
        try:
            yield there
        finally:
            self._coming -= size if there else 0

    def size(self) -> int:
        """Bytes of all files."""
        return sum(_size(path) for path in self._files())

    def sweep(self, keep: Collection[Path] = (), age: float = _KEPT_SECONDS) -> None:
        """Delete what nobody has written or shown for `age` seconds, but for what to `keep`."""
        oldest = time.time() - age
        for path in self._files():
            if path in keep:
                continue
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    path.parent.rmdir()  # of an upload, which has a folder of its own

    async def keep_sweeping(self, keep: Collection[Path]) -> None:
        """Sweep from time to time, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await asyncio.to_thread(self.sweep, keep)

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.shown.parent):
            yield from (Path(folder, name) for name in names)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
