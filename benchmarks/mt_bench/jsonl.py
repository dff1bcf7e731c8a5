"""Files of JSON lines that survive a kill at any moment: appended line by line, each synced, a torn end repaired.

Reading names file, line and field of what is wrong.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class BadFile(ValueError):
    """A file that cannot be used; the message is one sentence with file, line and field."""


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1. A torn last line, left by a kill, is not there.

    Raises BadFile if the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from error
    whole = data[: _whole_length(data)]
    for number, line in enumerate(whole.split(b"\n"), 1):
        if line.strip():
            yield number, line


def read(path: Path, kind: type[T]) -> list[T]:
    """All lines as `kind`, a msgspec type. Raises BadFile for the first one that is not."""
    return [value for _, value in numbered(path, kind)]


def numbered(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """As `read`, with the numbers of the lines."""
    decoder = msgspec.json.Decoder(kind)
    for number, line in lines(path):
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadFile(f"{path}:{number}: {explain(error)}") from error


def explain(error: Exception) -> str:
    """What msgspec found wrong, with the field's name where it has one."""
    text = str(error)
    broken = isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
    if broken or isinstance(error, UnicodeDecodeError):
        return f"broken JSON: {text}"
    what, separator, where = text.partition(" - at `$")
    if not separator:
        return text
    return f"{where.rstrip('`').lstrip('.') or 'line'}: {what}"


def _whole_length(data: bytes) -> int:
    """Bytes up to the end of the last whole line: one without a newline counts if it is JSON."""
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return end
    try:
        msgspec.json.decode(data[end:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return end
    return len(data)


def repair(path: Path) -> None:
    """Cut a torn last line off, or give it the newline that it lacks."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = _whole_length(data)
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    elif data and not data.endswith(b"\n"):
        _write(path, b"\n")


class Appender:
    """Appends values to files as lines, one at a time, each on the disk before `append` returns."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._repaired: set[Path] = set()

    async def append(self, path: Path, value: Any) -> None:
        """Append one line; makes the file and its folders, and repairs it first."""
        async with self._lock:
            await asyncio.to_thread(self._append, path, value)

    def _append(self, path: Path, value: Any) -> None:
        if path not in self._repaired:
            path.parent.mkdir(parents=True, exist_ok=True)
            repair(path)
            self._repaired.add(path)
        _write(path, msgspec.json.encode(value) + b"\n")


def _write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: Iterable[bytes]) -> None:
    """Write a whole file anew, so that at any moment either the old or the new one is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two that write the same file at once each have their own; the ending keeps it out of *.jsonl.
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    with fresh.open("xb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
