"""The judges' prompts: which one belongs to a question, and the text that it makes."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from benchmarks.mt_bench import verdict
from benchmarks.mt_bench.jsonl import BadFile, explain, numbered
from benchmarks.mt_bench.questions import Question

Kind = Literal["single", "pairwise"]
RATING, CHOICE, FIVE_WAY = "[[rating]]", "[[A]]", "[[A>B]]"
_FORMATS: Final[dict[str, tuple[str, ...]]] = {"single": (RATING,), "pairwise": (CHOICE, FIVE_WAY)}
_PREFERENCES: Final[dict[str, Callable[[str], verdict.Preference | verdict.Unscored]]] = {
    CHOICE: verdict.preference,
    FIVE_WAY: verdict.five_way,
}
# What a template may ask for, by kind and by whether it is about both turns; references may be added to each.
_FIELDS: Final[dict[tuple[str, bool], frozenset[str]]] = {
    ("single", False): frozenset({"question", "answer"}),
    ("single", True): frozenset({"question_1", "question_2", "answer_1", "answer_2"}),
    ("pairwise", False): frozenset({"question", "answer_a", "answer_b"}),
    ("pairwise", True): frozenset({"question_1", "question_2", "answer_a_1", "answer_a_2", "answer_b_1", "answer_b_2"}),
}
_REFERENCES: Final = {False: frozenset({"ref_answer_1"}), True: frozenset({"ref_answer_1", "ref_answer_2"})}


class _Line(msgspec.Struct, kw_only=True):
    name: str
    type: Kind
    system_prompt: str
    prompt_template: str
    output_format: str


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A judge's prompt. Whether it is about both turns or has references is told by the fields of its template."""

    name: str
    kind: Kind
    system: str
    template: str
    output_format: str
    both_turns: bool
    with_references: bool

    def text(self, values: Mapping[str, str]) -> str:
        """The template with its fields filled in."""
        return self.template.format_map(values)

    def preference(self, words: str) -> verdict.Preference | verdict.Unscored:
        """The verdict in a judge's words about two answers."""
        return _PREFERENCES[self.output_format](words)


def read_prompts(path: Path) -> list[JudgePrompt]:
    """All prompts of a file. Raises BadFile for the first that cannot be used."""
    found: list[JudgePrompt] = []
    for number, line in numbered(path, _Line):
        try:
            found.append(_prompt(line))
        except ValueError as error:
            raise BadFile(f"{path}:{number}: {error}") from error
    return found


def check_prompt(line: bytes) -> str | None:
    """What is wrong with a line of a file of prompts, if anything."""
    try:
        _prompt(msgspec.json.decode(line, type=_Line))
    except (msgspec.DecodeError, ValueError) as error:
        return explain(error)
    return None


def _prompt(line: _Line) -> JudgePrompt:
    """Raises ValueError with the field's name."""
    if line.output_format not in _FORMATS[line.type]:
        allowed = ", ".join(_FORMATS[line.type])
        raise ValueError(f"output_format: must be {allowed} for type {line.type}, not {line.output_format!r}")
    fields = _fields(line.prompt_template)
    both = "question_2" in fields
    wanted, references = _FIELDS[line.type, both], _REFERENCES[both]
    if missing := sorted(wanted - fields):
        raise ValueError(f"prompt_template: lacks {{{missing[0]}}}")
    if unknown := sorted(fields - wanted - references):
        raise ValueError(f"prompt_template: has the unknown field {{{unknown[0]}}}")
    return JudgePrompt(
        name=line.name,
        kind=line.type,
        system=line.system_prompt,
        template=line.prompt_template,
        output_format=line.output_format,
        both_turns=both,
        with_references=bool(fields & references),
    )


def _fields(template: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"prompt_template: {error}") from error


def choose(prompts: Sequence[JudgePrompt], kind: Kind, question: Question, turn: int, references: bool) -> JudgePrompt:
    """The prompt for a turn (1 or 2) of a question. Raises BadFile if there is none, or more than one."""
    fitting = [
        prompt
        for prompt in prompts
        if (prompt.kind, prompt.both_turns, prompt.with_references) == (kind, turn == 2, references)
        and (kind == "single" or (prompt.output_format == FIVE_WAY) == question.five_way)
    ]
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"{kind} prompt for turn {turn} {'with' if references else 'without'} references"
    wanted += " and five levels" if question.five_way and kind == "pairwise" else ""
    if not fitting:
        raise BadFile(f"question {question.id}: the judge prompts hold no {wanted}")
    names = ", ".join(prompt.name for prompt in fitting)
    raise BadFile(f"question {question.id}: more than one {wanted}: {names}")
