"""Files that others replace while we run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def versions(paths: Iterable[Path | None]) -> list[tuple[int, int, int] | None]:
    """What differs after one of the files was written or replaced; None for one that is not there."""
    return [None if path is None else _version(path) for path in paths]


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
