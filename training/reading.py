"""Files of conversations, read as a stream: a file may be larger than memory.

JSON lines, a JSON array, JSON values one after another, and Parquet; told apart by their first bytes. `-` is JSON lines
on standard input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from training.conversations import BadConversation, Conversation, conversation

STDIN: Final = Path("-")
_CHUNK: Final = 1 << 18
_Row = dict[str, Any]


class BadFile(ValueError):
    """A file that cannot be read, or not to its end; the message is one sentence that names it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record and where it is. `value` is the JSON text of a line, or what another format was decoded to."""

    origin: str
    """For people: `chats.jsonl:12`, `chats.json: item 12`, `chats.parquet: row 12`; all count from 1."""
    value: bytes | Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some records of a file, in order, and how many bytes of the file they and those before them take."""

    records: list[Record]
    position: int


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no conversation."""

    record: Record
    reason: str

    def __str__(self) -> str:
        return f"{self.record.origin}: {self.reason}"


def read_conversations(paths: Iterable[Path], bad: Callable[[BadRecord], None]) -> Iterator[Conversation]:
    """The conversations of some files in order; `bad` is called with each record that is none.

    Raises BadFile for a file that cannot be read.
    """
    for path in paths:
        for chunk in chunks(path):
            for record in chunk.records:
                match parse(record):
                    case BadRecord() as refused:
                        bad(refused)
                    case found:
                        yield found


def parse(record: Record) -> Conversation | BadRecord:
    """The conversation of a record, or what is wrong with it."""
    try:
        value = msgspec.json.decode(record.value) if isinstance(record.value, bytes) else record.value
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return BadRecord(record, f"broken JSON: {error}")
    try:
        return conversation(value)
    except BadConversation as error:
        return BadRecord(record, str(error))


def chunks(path: Path, size: int = _CHUNK) -> Iterator[Chunk]:
    """The records of a file, about `size` bytes of it at a time. Raises BadFile."""
    try:
        if path == STDIN:
            yield from _lines("standard input", sys.stdin.buffer, size)
            return
        with path.open("rb") as file:
            yield from _format(path, file)(str(path), file, size)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from error


_Reader = Callable[[str, IO[bytes], int], Iterator[Chunk]]


def _format(path: Path, file: IO[bytes]) -> _Reader:
    """The reader of a file by its first bytes; the file stands at its beginning again."""
    head = file.read(1 << 16)
    file.seek(0)
    if head.startswith(b"PAR1"):
        return _parquet
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh")):
        raise BadFile(f"{path}: is compressed; unpack it into a pipe and read that: zcat FILE | mesh data ... -")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return _array
    return _lines if _is_json(file) or path.suffix != ".json" else _values


def _is_json(file: IO[bytes]) -> bool:
    """Whether the first line that is not blank is JSON by itself."""
    line = next((line for line in file if line.strip()), b"")
    file.seek(0)
    try:
        msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _lines(name: str, file: IO[bytes], size: int) -> Iterator[Chunk]:
    number, position = 0, 0
    while lines := file.readlines(size):
        position += sum(map(len, lines))
        if number == 0:
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        numbered = enumerate(lines, number + 1)
        records = [Record(f"{name}:{place}", line) for place, line in numbered if line.strip()]
        number += len(lines)
        yield Chunk(records, position)


def _array(name: str, file: IO[bytes], size: int) -> Iterator[Chunk]:
    return _parsed(name, file, size, "item")


def _values(name: str, file: IO[bytes], size: int) -> Iterator[Chunk]:
    return _parsed(name, file, size, "")


def _parsed(name: str, file: IO[bytes], size: int, prefix: str) -> Iterator[Chunk]:
    """JSON that does not keep to lines, by a parser that reads on as it is asked for more."""
    import ijson

    records: list[Record] = []
    number, position = 0, 0
    try:
        found = ijson.items(file, prefix, use_float=True, multiple_values=not prefix, buf_size=min(size, 1 << 16))
        for value in cast("Iterator[Any]", found):
            number += 1
            records.append(Record(f"{name}: item {number}", value))
            if file.tell() - position >= size:
                position = file.tell()
                yield Chunk(records, position)
                records = []
    except (ijson.JSONError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise BadFile(f"{name}: broken JSON after item {number}, the rest cannot be read: {message}") from error
    yield Chunk(records, file.tell())


def _parquet(name: str, file: IO[bytes], size: int) -> Iterator[Chunk]:
    import pyarrow
    from pyarrow import parquet

    broken = cast("type[Exception]", cast("Any", pyarrow).ArrowException)
    try:
        # Read piece by piece: a group of rows may be the whole file.
        table: Any = parquet.ParquetFile(file, pre_buffer=False, buffer_size=size)
        rows, total = cast("int", table.metadata.num_rows), file.seek(0, 2)
        batches = cast("Iterator[Any]", table.iter_batches(batch_size=max(1, size * rows // total)))
        number = 0
        for batch in batches:
            found = cast("list[_Row]", batch.to_pylist())
            records = [Record(f"{name}: row {place}", _present(row)) for place, row in enumerate(found, number + 1)]
            number += len(found)
            yield Chunk(records, total * number // rows)
    except broken as error:
        raise BadFile(f"{name}: {error}") from error


def _present(row: _Row) -> _Row:
    """A row as JSON would have it: without the columns that other rows have, which Parquet fills with nulls, in
    structures, too; and with texts for times, decimals and bytes."""
    return msgspec.to_builtins({key: _stripped(value) for key, value in row.items() if value is not None})


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("_Row", value).items()
        return {key: _stripped(inner) for key, inner in items if inner is not None}
    if isinstance(value, list):
        return [_stripped(inner) for inner in cast("list[Any]", value)]
    return value
