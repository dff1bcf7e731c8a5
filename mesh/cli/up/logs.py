"""A log of each process, which does not grow for ever."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

_LARGEST = 64 * 1024 * 1024


class Log:
    """A file that lines are added to. When it is full, or there from an earlier run, it becomes `NAME.log.1`."""

    def __init__(self, path: Path, largest: int = _LARGEST) -> None:
        """Raises OSError."""
        self.path = path
        self._largest = largest
        path.parent.mkdir(parents=True, exist_ok=True)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, line: bytes) -> None:
        """Add a line, with its end. Raises OSError, as where the disk is full."""
        if self._size + len(line) > self._largest:
            self._file.close()
            self._begin()
        self._file.write(line)
        self._size += len(line)

    def fileno(self) -> int:
        """The descriptor, for a process that writes to the file itself."""
        return self._file.fileno()

    def _begin(self) -> None:
        if self.path.exists():
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._file = self.path.open("wb", buffering=0)
        self._size = 0
