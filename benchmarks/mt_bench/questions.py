"""Questions, read from files of four shapes into one.

MT-bench     {"question_id": 81, "category": "writing", "turns": ["…", "…"]}
vicuna       the same with one turn
Arena-Hard   {"uid": "…", "category": "…", "prompt": "…"}, or {"question_id": "…", "turns": [{"content": "…"}]}
your own     MT-bench's, with one or two turns; `category`, `reference` and `required_temperature` may be left out
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from benchmarks.mt_bench.jsonl import BadFile, explain, lines

QuestionId = int | str

# The protocol's: what has one right answer is asked without chance.
TEMPERATURES: Final = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
    "arena-hard-200": 0.0,
}
OTHER_TEMPERATURE: Final = 0.7
# Judges see a reference answer in these, by the protocol.
REFERENCE_CATEGORIES: Final = frozenset({"math", "reasoning", "coding", "arena-hard-200"})
_MOST_TURNS: Final = 2


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `reference` is what its file says beside it, for people; judges get the set's reference answers."""

    id: QuestionId
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()
    required_temperature: float | None = None
    five_way: bool = False  # of an Arena-Hard-shaped file

    @property
    def temperature(self) -> float:
        """At which it is answered unless the user says otherwise."""
        if self.required_temperature is not None:
            return self.required_temperature
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


def read_questions(path: Path) -> list[Question]:
    """All questions of a file. Raises BadFile for the first problem."""
    questions, problems = examine(path)
    if problems:
        raise BadFile(problems[0])
    return questions


def examine(path: Path) -> tuple[list[Question], list[str]]:
    """The questions of a file, and what is wrong with it: a sentence each, with file, line and field.

    Raises BadFile if it cannot be read.
    """
    found: dict[QuestionId, Question] = {}
    first: dict[QuestionId, int] = {}
    problems: list[str] = []
    for number, line in lines(path):
        try:
            question = _question(line)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if question.id in found:
            problems.append(f"{path}:{number}: question_id: {question.id!r} is already in line {first[question.id]}")
        found.setdefault(question.id, question)
        first.setdefault(question.id, number)
    if not found and not problems:
        problems.append(f"{path}: holds no question")
    return [*found.values()], problems


def _question(line: bytes) -> Question:
    """Raises ValueError with the field's name."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(explain(error)) from error
    if not isinstance(value, dict):
        raise ValueError("line: must be an object")
    row = cast("dict[str, Any]", value)
    turns, five_way = _turns(row)
    return Question(
        id=_id(row),
        category=_text(row, "category", "general"),
        turns=turns,
        reference=_reference(row),
        required_temperature=_temperature(row),
        five_way=five_way,
    )


def _id(row: dict[str, Any]) -> QuestionId:
    name = "question_id" if "question_id" in row else "uid"
    given = row.get(name)
    if given is None:
        raise ValueError("question_id: is missing")
    if isinstance(given, bool) or not isinstance(given, int | str) or given == "":
        raise ValueError(f"{name}: must be a whole number or a text, not {given!r}")
    return given


def _text(row: dict[str, Any], name: str, default: str) -> str:
    given = row.get(name, default)
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"{name}: must be a text, not {given!r}")
    return given


def _turns(row: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
    """The turns, and whether the shape is Arena-Hard's."""
    if "turns" not in row:
        if "prompt" not in row:
            raise ValueError("turns: is missing")
        return (_text(row, "prompt", ""),), True
    given: Any = row["turns"]
    if not isinstance(given, list) or not 1 <= len(cast("list[Any]", given)) <= _MOST_TURNS:
        raise ValueError(f"turns: must be a list of 1 or {_MOST_TURNS} texts")
    items = cast("list[Any]", given)
    objects = all(isinstance(item, dict) for item in items)
    turns: list[str] = []
    for place, item in enumerate(items):
        text = item.get("content") if objects else item
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"turns[{place}]: must be a text that is not empty")
        turns.append(text)
    return tuple(turns), objects


def _reference(row: dict[str, Any]) -> tuple[str, ...]:
    given: Any = row.get("reference") or []
    items = cast("list[Any]", given) if isinstance(given, list) else [given]
    if not all(isinstance(item, str | type(None)) for item in items):
        raise ValueError("reference: must be a list of texts, one for each turn")
    return tuple(item or "" for item in items)


def _temperature(row: dict[str, Any]) -> float | None:
    given = row.get("required_temperature")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 2:
        raise ValueError(f"required_temperature: must be a number between 0 and 2, not {given!r}")
    return float(given)
