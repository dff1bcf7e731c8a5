"""Files of conversations, written as a stream; none is there under its name before it is whole."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec

from training.data.tool import DroppedItem, Item
from training.reading import STDIN, BadRecord

STDOUT: Final = STDIN


class Output:
    """Items to a file: a JSON array if its name ends in .json, else JSON lines. Parts are named before the ending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: Counter[Path] = Counter()
        """Conversations by file."""
        self._files: dict[Path, IO[bytes]] = {}
        self._array = path.suffix == ".json"

    def __enter__(self) -> Self:
        return self

    def write(self, item: Item) -> None:
        self.line(self._name(item.part), item.line)

    def line(self, path: Path, line: bytes) -> None:
        """One record, without a newline."""
        file = self._files.get(path) or self._open(path)
        if self._array:
            file.write(b",\n" if self.written[path] else b"[\n")
        file.write(line)
        if not self._array:
            file.write(b"\n")
        self.written[path] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None and not self._files:
            self._open(self.path)
        for path, file in self._files.items():
            if path == STDOUT:
                file.flush()
                continue
            if self._array:
                file.write(b"\n]\n" if self.written[path] else b"[]\n")
            file.close()
            if kind is None:
                os.replace(_partial(path), path)
            else:
                _partial(path).unlink(missing_ok=True)

    def _name(self, part: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.{part}{self.path.suffix}") if part else self.path

    def _open(self, path: Path) -> IO[bytes]:
        file = sys.stdout.buffer if path == STDOUT else _partial(path).open("wb")
        self._files[path] = file
        return file


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def dropped_line(dropped: DroppedItem) -> bytes:
    """The conversation again, and in a field `dropped` by what, why and where it was."""
    why = {"by": dropped.tool, "reason": dropped.reason, "detail": dropped.detail, "origin": dropped.item.origin}
    return msgspec.json.encode({**msgspec.json.decode(dropped.item.line), "dropped": why})


def bad_line(bad: BadRecord) -> bytes:
    """A record that is no conversation, in a field `record`, as it was found."""
    why = {"by": "reading", "reason": "unreadable", "detail": bad.reason, "origin": bad.record.origin}
    value: Any = bad.record.value
    return msgspec.json.encode({"dropped": why, "record": _text(value) if isinstance(value, bytes) else value})


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r\n")
