"""Files of conversations, written as a stream; none is there under its name before it is whole."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec

from mesh.config import ConfigError
from training.data.tool import DroppedItem, Item
from training.reading import STDIN, BadRecord

STDOUT: Final = STDIN
_OTHER_FORMATS: Final = (".parquet", ".csv", ".gz", ".zst", ".bz2", ".xz", ".zip")


def check_output(flag: str, path: Path) -> None:
    """Raises ConfigError where nothing could be written in the end, however long the work."""
    if path == STDOUT:
        return
    if path.is_dir():
        raise ConfigError(f"{flag} must be a file; {path} is a folder")
    if not path.parent.is_dir():
        raise ConfigError(f"{flag} {path}: there is no folder {path.parent}")
    if path.suffix in _OTHER_FORMATS:
        raise ConfigError(f"{flag} {path}: what is written is JSON lines, or an array for *.json, and nothing else")


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
        try:
            if self._array:
                file.write(b",\n" if self.written[path] else b"[\n")
            file.write(line)
            if not self._array:
                file.write(b"\n")
        except OSError as error:  # as of a disk that is full, which does not say where it is
            raise _named(error, path) from None
        self.written[path] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        whole = False
        try:
            if kind is None:
                self._end()
                whole = True
        finally:
            for path, file in self._files.items():
                if path != STDOUT:
                    _close(path, file, whole)

    def _end(self) -> None:
        """All that is still to be written: what a disk that is full refuses."""
        if not self._files:
            self._open(self.path)
            self.written[self.path] = 0
        for path, file in self._files.items():
            try:
                if self._array:
                    file.write(b"\n]\n" if self.written[path] else b"[]\n")
                file.flush()
            except OSError as error:
                raise _named(error, path) from None

    def _name(self, part: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.{part}{self.path.suffix}") if part else self.path

    def _open(self, path: Path) -> IO[bytes]:
        file = sys.stdout.buffer if path == STDOUT else _place(path).open("wb")
        self._files[path] = file
        return file


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))


def _place(path: Path) -> Path:
    """Where a file is until it is whole, beside itself. Pipes and devices are written to: none may take their place."""
    if path.exists() and not path.is_file():
        return path
    target = path.resolve()  # a link stays one
    return target.with_name(f".{target.name}.partial")


def _close(path: Path, file: IO[bytes], whole: bool) -> None:
    with suppress(OSError):  # again, of what could not be flushed
        file.close()
    place = _place(path)
    if place == path:
        return
    if whole:
        os.replace(place, path.resolve())
    else:
        place.unlink(missing_ok=True)


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
