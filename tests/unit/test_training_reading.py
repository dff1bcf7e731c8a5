"""Files of conversations, read piece by piece."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pyarrow
import pytest
from pyarrow import parquet

from training.conversations import Conversation
from training.reading import BadFile, BadRecord, chunks, parse, read_conversations

RECORDS: list[dict[str, Any]] = [
    {"id": str(number), "conversations": [{"from": "human", "value": f"Question {number}, ä"}]} for number in range(50)
]


def _write(path: Path) -> Path:
    """All records in the format that the name asks for."""
    match path.name:
        case "lines.jsonl" | "lines.json":
            path.write_text("\n\n".join(map(json.dumps, RECORDS)) + "\n")
        case "array.json":
            path.write_text(json.dumps(RECORDS, indent=2))
        case "array_in_a_line.jsonl":
            path.write_text(json.dumps(RECORDS))
        case "values.json":
            path.write_text("\n".join(json.dumps(record, indent=2) for record in RECORDS))
        case "bom.jsonl":
            path.write_text("\ufeff" + "\r\n".join(map(json.dumps, RECORDS)))
        case "bom_array.json":
            path.write_text("\ufeff" + json.dumps(RECORDS, indent=2))
        case _:
            table = cast("Any", pyarrow).Table.from_pylist(RECORDS)
            cast("Any", parquet).write_table(table, path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "lines.jsonl",
        "lines.json",
        "array.json",
        "array_in_a_line.jsonl",
        "values.json",
        "bom.jsonl",
        "bom_array.json",
        "table.parquet",
    ],
)
def test_every_format_in_small_pieces(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name)
    found = list(chunks(path, size=200))
    assert len(found) > 3
    ids = [one.id for chunk in found for one in map(parse, chunk.records) if isinstance(one, Conversation)]
    assert ids == [record["id"] for record in RECORDS]
    positions = [chunk.position for chunk in found]
    assert positions == sorted(positions)
    assert positions[-1] == path.stat().st_size


@pytest.mark.parametrize("name", ["lines.jsonl", "array.json", "bom_array.json"])
def test_a_pipe_is_read_once(tmp_path: Path, name: str) -> None:
    """As `<(zcat chats.jsonl.gz)` is, of which nothing can be read twice."""
    content, pipe = _write(tmp_path / name).read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    found = list(read_conversations([pipe], lambda bad: pytest.fail(str(bad))))
    writer.join(timeout=5)
    assert [one.id for one in found] == [record["id"] for record in RECORDS]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    """JSON may hold the separators that Unicode has besides it, as they are."""
    path, said = tmp_path / "chats.jsonl", "a\u2028b\u2029c\x85d"
    line = json.dumps({"messages": [{"role": "user", "content": said}]}, ensure_ascii=False)
    path.write_bytes(f"{line}\n{line}".encode())
    found = list(read_conversations([path], lambda bad: pytest.fail(str(bad))))
    assert [one.messages[0].content for one in found] == [said, said]


def test_a_bad_line_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    good = json.dumps(RECORDS[0])
    path.write_text(f'{good}\n{{"id": \n\n{{"messages": 5}}\n"\\ud800"\n{good}\n')
    bad: list[BadRecord] = []
    assert len(list(read_conversations([path], bad.append))) == 2
    assert [str(one).replace(str(path), "FILE") for one in bad] == [
        "FILE:2: broken JSON: Input data was truncated",
        "FILE:4: messages: must be a list of messages, not a number",
        "FILE:5: broken JSON: Input data was truncated",
    ]


def test_rows_lack_what_they_do_not_say(tmp_path: Path) -> None:
    """A column that another row has is null in this one, which is no mistake and not written out."""
    path = tmp_path / "table.parquet"
    rows = [{"messages": [{"role": "user", "content": "a", "name": "Eve"}], "model": "x"},
            {"messages": [{"role": "user", "content": "b", "name": None}], "model": None}]  # fmt: skip
    cast("Any", parquet).write_table(cast("Any", pyarrow).Table.from_pylist(rows), path)
    first, second = read_conversations([path], lambda bad: pytest.fail(str(bad)))
    assert (first.extra, first.messages[0].extra) == ({"model": "x"}, {"name": "Eve"})
    assert (second.extra, second.messages[0].extra) == ({}, {})


def test_times_and_decimals_of_a_table_are_texts_as_in_json(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    said = {"role": "user", "content": "a", "timestamp": datetime(2024, 1, 2, tzinfo=UTC)}
    rows = [{"messages": [said], "cost": Decimal("1.5"), "day": date(2024, 1, 2), "raw": b"x"}]
    cast("Any", parquet).write_table(cast("Any", pyarrow).Table.from_pylist(rows), path)
    (found,) = read_conversations([path], lambda bad: pytest.fail(str(bad)))
    assert found.messages[0].extra == {"timestamp": "2024-01-02T00:00:00Z"}
    assert found.extra == {"cost": "1.5", "day": "2024-01-02", "raw": "eA=="}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"id": 1}, {"id": 2}, {"id', "broken JSON after item 2, the rest cannot be read"),
        (b"\x1f\x8b\x08", r"is compressed; unpack it into a pipe and read that: zcat FILE \| mesh data"),
        (b"\x28\xb5\x2f\xfd", r"is compressed; .*: zstdcat FILE"),
        (b"\xfd7zXZ\x00", r"is compressed; .*: xzcat FILE"),
        ('{"messages": []}'.encode("utf-16"), "must be UTF-8"),
        ('{"messages": []}'.encode("utf-16-le"), "must be UTF-8"),
        (b"PAR1 no parquet", "(?i)parquet"),
    ],
)
def test_files_that_cannot_be_read_to_their_end(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "chats.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=message):
        list(chunks(path))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"missing.jsonl: No such file"):
        list(chunks(tmp_path / "missing.jsonl"))


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json", "empty.parquet"])
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_has_no_records(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert [record for chunk in chunks(path) for record in chunk.records] == []
