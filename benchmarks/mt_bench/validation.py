"""Checks of files before a run depends on them: every problem, with file, line and field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.mt_bench.answering import FASTCHAT_FAILURE
from benchmarks.mt_bench.jsonl import BadFile, explain, lines
from benchmarks.mt_bench.prompts import check_prompt
from benchmarks.mt_bench.question_set import Correction, load
from benchmarks.mt_bench.questions import examine
from benchmarks.mt_bench.records import UNSCORED, Answer, Failure, Pair, Single
from benchmarks.mt_bench.verdict import HIGHEST, LOWEST

# Told by a field that only one of them has.
_KINDS: Final[dict[str, type[Any]]] = {
    "choices": Answer,
    "g1_winner": Pair,
    "score": Single,
    "reason": Failure,
    "turns": Correction,
}


def check(path: Path) -> list[str]:
    """The problems of a file, or of all files of a question set or a run."""
    if not path.is_dir():
        return [*_file(path)]
    files = sorted(file for file in path.rglob("*.jsonl") if file.is_file())
    problems = [problem for file in files for problem in _file(file)] if files else [f"{path}: holds no *.jsonl"]
    if not problems and (path / "question.jsonl").exists():
        problems += _whole_set(path)
    return problems


def _whole_set(folder: Path) -> Iterator[str]:
    """Do questions, prompts and references belong together?"""
    try:
        questions = load(str(folder), folder)
        for question in questions.questions:
            questions.references.of(question)
    except BadFile as error:
        yield f"{folder}: {error}"


def _file(path: Path) -> Iterator[str]:
    try:
        rows = [*lines(path)]
    except BadFile as error:
        yield str(error)
        return
    fields = next((found for _, line in rows if (found := _fields(line))), dict[str, Any]())
    if path.name != "question.jsonl" and fields.keys() & {"prompt_template"}:
        for number, line in rows:
            if (problem := check_prompt(line)) is not None:
                yield f"{path}:{number}: {problem}"
    elif path.name != "question.jsonl" and (kind := _kind(path, fields)) is not None:
        yield from _records(path, rows, kind)
    else:
        yield from examine(path)[1]
    if path.read_bytes()[-1:] not in (b"\n", b""):
        yield f"{path}: the last line has no end; a run that appends to it repairs it"


def _fields(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _kind(path: Path, fields: dict[str, Any]) -> type[Any] | None:
    """None: these are questions."""
    found = next((kind for name, kind in _KINDS.items() if name in fields), None)
    if found is Correction and "correction" not in path.name:
        return None
    return found


def _records(path: Path, rows: list[tuple[int, bytes]], kind: type[Any]) -> Iterator[str]:
    decoder = msgspec.json.Decoder(kind)
    first: dict[object, int] = {}
    for number, line in rows:
        try:
            value = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield f"{path}:{number}: {explain(error)}"
            continue
        for problem in _content(value):
            yield f"{path}:{number}: {problem}"
        key = _key(value)
        if key is not None and key in first:
            yield f"{path}:{number}: is about the same as line {first[key]}; the later one counts"
        first.setdefault(key, number)


def _key(value: Any) -> object:
    match value:
        case Answer() | Correction():
            return value.question_id
        case Single() | Pair():
            return value.key if value.scored else None
        case _:
            return None


def _content(value: Any) -> Iterator[str]:
    match value:
        case Answer():
            if not value.choices:
                yield "choices: is empty"
            for place, choice in enumerate(value.choices):
                for turn, text in enumerate(choice.turns):
                    if not text.strip():
                        yield f"choices[{place}].turns[{turn}]: is empty"
                    if text == FASTCHAT_FAILURE:
                        yield f"choices[{place}].turns[{turn}]: is FastChat's mark of a failure, not an answer"
        case Single():
            if value.score != UNSCORED and not LOWEST <= value.score <= HIGHEST:
                yield f"score: must be between {LOWEST} and {HIGHEST}, or {UNSCORED} for none, not {value.score}"
        case _:
            return
