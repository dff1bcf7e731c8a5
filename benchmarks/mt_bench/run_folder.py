"""The folder of a run: one process at a time writes it."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.mt_bench.jsonl import BadFile


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Hold the folder for writing. Raises BadFile if another process does. A kill lets go of it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadFile(f"{folder}: another run is writing here") from None
        for left in folder.rglob("*.new"):  # by a run that was killed while it wrote a file anew
            left.unlink()
        yield
