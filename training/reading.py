"""Files of conversations, read as a stream: a file may be larger than memory.

JSON lines, a JSON array, JSON values one after another, and Parquet; told apart by their first bytes. `-` is standard
input, which like other pipes gives JSON lines or an array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from training.conversations import BadConversation, Conversation, conversation

STDIN: Final = Path("-")
_CHUNK: Final = 1 << 18
_HEAD: Final = 1 << 16
"""Bytes by which a format is told; of a pipe it may be fewer."""
_BOM: Final = b"\xef\xbb\xbf"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_COMPRESSED: Final[Mapping[bytes, str]] = {
    b"\x1f\x8b": "zcat FILE",
    b"\x28\xb5\x2f\xfd": "zstdcat FILE",
    b"BZh": "bzcat FILE",
    b"\xfd7zXZ": "xzcat FILE",
    b"PK\x03\x04": "unzip -p FILE",
}
"""The first bytes of compressed files, and what unpacks them."""
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
    name = "standard input" if path == STDIN else str(path)
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb", buffering=_HEAD) as file:
            yield from _reader(name, file)(name, file, size)
    except OSError as error:
        raise BadFile(f"{name}: {error.strerror or error}") from error


_Reader = Callable[[str, IO[bytes], int], Iterator[Chunk]]


def _reader(name: str, file: IO[bytes]) -> _Reader:
    """The reader of a file by its first bytes, none of which is taken. Raises BadFile."""
    piped = not file.seekable()
    head = cast("BufferedReader", file).peek(_HEAD)
    for mark, unpack in _COMPRESSED.items():
        if head.startswith(mark):
            raise BadFile(f"{name}: is compressed; unpack it into a pipe and read that: {unpack} | mesh data ... -")
    if head.startswith(_UTF16) or 0 in head[:2]:
        raise BadFile(f"{name}: must be UTF-8; change it into that: iconv -f UTF-16 -t UTF-8 FILE | mesh data ... -")
    if head.startswith(b"PAR1"):
        if piped:
            raise BadFile(f"{name}: is Parquet, which cannot be read from a pipe")
        return _parquet
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return _array
    lines = piped or not text or not name.endswith(".json") or _is_json(file)
    return _lines if lines else _values


def _is_json(file: IO[bytes]) -> bool:
    """Whether the first line that is not blank is JSON by itself."""
    line = next((line for line in file if line.strip()), b"")
    file.seek(0)
    try:
        msgspec.json.decode(line.removeprefix(_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _lines(name: str, file: IO[bytes], size: int) -> Iterator[Chunk]:
    number, position = 0, 0
    while lines := file.readlines(size):
        position += sum(map(len, lines))
        if number == 0:
            lines[0] = lines[0].removeprefix(_BOM)
        numbered = enumerate(lines, number + 1)
        records = [Record(f"{name}:{place}", line) for place, line in numbered if line.strip()]
        number += len(lines)
        yield Chunk(records, position)


def _array(name: str, file: IO[bytes], size: int) -> Iterator[Chunk]:
    return _parsed(name, file, size, "item")


def _values(name: str, file: IO[bytes], size: int) -> Iterator[Chunk]:
    return _parsed(name, file, size, "")


class _Counted:
    """A file without the mark that some systems begin one with, and how far it was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.position = 0
        self._file = file

    def read(self, size: int) -> bytes:
        found = self._file.read(size)
        kept = found if self.position else found.removeprefix(_BOM)
        self.position += len(found)
        return kept


def _parsed(name: str, file: IO[bytes], size: int, prefix: str) -> Iterator[Chunk]:
    """JSON that does not keep to lines, by a parser that reads on as it is asked for more."""
    import ijson

    records: list[Record] = []
    number, position = 0, 0
    text, piece = _Counted(file), min(size, 1 << 16)
    try:
        found = ijson.items(cast("Any", text), prefix, use_float=True, multiple_values=not prefix, buf_size=piece)
        for value in cast("Iterator[Any]", found):
            number += 1
            records.append(Record(f"{name}: item {number}", value))
            if text.position - position >= size:
                position = text.position
                yield Chunk(records, position)
                records = []
    except (ijson.JSONError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise BadFile(f"{name}: broken JSON after item {number}, the rest cannot be read: {message}") from error
    yield Chunk(records, text.position)


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
