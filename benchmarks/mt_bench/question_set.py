"""A question set: questions, judges' prompts and reference answers, by name, folder or file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.mt_bench.jsonl import BadFile, numbered
from benchmarks.mt_bench.prompts import FIVE_WAY, JudgePrompt, read_prompts
from benchmarks.mt_bench.questions import REFERENCE_CATEGORIES, Question, QuestionId, read_questions
from benchmarks.mt_bench.records import Answer, read_answers

SHIPPED: Final = "mesh-mini"
_SETS: Final = Path(__file__).parent / "sets"
_PROMPTS: Final = "judge_prompts.jsonl"


@dataclass(frozen=True, slots=True)
class References:
    """Reference answers by question, a text for each turn, and what to call them: file, and corrections if any."""

    name: str
    turns: dict[QuestionId, tuple[str, ...]]

    def of(self, question: Question) -> tuple[str, ...] | None:
        """Those of a question, None if judges see none for it. Raises BadFile where there should be one."""
        found = self.turns.get(question.id)
        if found is None and question.category in REFERENCE_CATEGORIES and not question.five_way:
            raise BadFile(
                f"question {question.id}: there is no reference answer for its category, {question.category}; "
                "give one in reference_answer/NAME.jsonl beside the questions, or another category"
            )
        if found is not None and len(found) < len(question.turns):
            raise BadFile(f"question {question.id}: its reference has {len(found)} of {len(question.turns)} turns")
        return found


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """What a benchmark asks and how it judges. `prompts_file` says where the judges' prompts come from."""

    name: str
    questions: tuple[Question, ...]
    prompts: tuple[JudgePrompt, ...]
    references: References
    prompts_file: Path

    @property
    def ids(self) -> list[QuestionId]:
        """The ids, in the order of the file."""
        return [question.id for question in self.questions]

    def first(self, count: int | None) -> QuestionSet:
        """With the first so many questions only."""
        return self if count is None else replace(self, questions=self.questions[:count])


class Correction(msgspec.Struct, kw_only=True):
    """A line of a file of corrections. A turn of null stays as it was."""

    question_id: QuestionId
    turns: list[str | None]
    note: str = ""


def load(bench: str, data_dir: Path, references: str = "", corrections: Path | None = None) -> QuestionSet:
    """The set of that name (shipped, or a folder of `data_dir`), in that folder, or of that file of questions.

    `references` picks one of several files of reference answers. Raises BadFile.
    """
    question_file = _question_file(bench, data_dir)
    folder = question_file.parent
    prompts_file = next(
        (path for path in (folder / _PROMPTS, folder.parent / _PROMPTS) if path.exists()), _SETS / SHIPPED / _PROMPTS
    )
    questions = read_questions(question_file)
    return QuestionSet(
        name=folder.name if question_file.name == "question.jsonl" else question_file.stem,
        questions=tuple(questions),
        prompts=_prompts(prompts_file, questions),
        references=_corrected(_references(folder, references), corrections, questions),
        prompts_file=prompts_file,
    )


def _prompts(path: Path, questions: Sequence[Question]) -> tuple[JudgePrompt, ...]:
    """Those of the file; MT-bench's have no verdict of five levels, for which ours step in."""
    prompts = read_prompts(path)
    if any(question.five_way for question in questions) and all(each.output_format != FIVE_WAY for each in prompts):
        prompts += [each for each in read_prompts(_SETS / SHIPPED / _PROMPTS) if each.output_format == FIVE_WAY]
    return tuple(prompts)


def _question_file(bench: str, data_dir: Path) -> Path:
    given = Path(bench)
    for path in (data_dir / bench / "question.jsonl", _SETS / bench / "question.jsonl", given / "question.jsonl"):
        if path.is_file():
            return path
    if given.is_file():
        return given
    shipped = ", ".join(sorted(path.name for path in _SETS.iterdir() if path.is_dir()))
    raise BadFile(
        f"--bench '{bench}' is neither shipped ({shipped}) nor in {data_dir} (mesh mtbench download gets mt_bench and "
        "vicuna_bench) nor a folder or file of questions"
    )


def _references(folder: Path, wanted: str) -> References:
    files = sorted((folder / "reference_answer").glob("*.jsonl"))
    if wanted:
        files = [path for path in files if path.stem == wanted]
        if not files:
            raise BadFile(f"--references '{wanted}': {folder / 'reference_answer'} has no {wanted}.jsonl")
    if len(files) > 1:
        raise BadFile(f"--references must be one of {', '.join(path.stem for path in files)}")
    if not files:
        return References("", {})
    return References(files[0].stem, {id_: _turns(answer) for id_, answer in read_answers(files[0]).items()})


def _turns(answer: Answer) -> tuple[str, ...]:
    return tuple(answer.choices[0].turns) if answer.choices else ()


def _corrected(references: References, path: Path | None, questions: Sequence[Question]) -> References:
    """With the corrections of a file laid over; their name holds a hash of the file, since it may change."""
    if path is None:
        return references
    known = {question.id: question for question in questions}
    turns = dict(references.turns)
    for number, line in numbered(path, Correction):
        question = known.get(line.question_id)
        if question is None:
            raise BadFile(f"{path}:{number}: question_id: the set has no question {line.question_id!r}")
        if len(line.turns) != len(question.turns):
            raise BadFile(f"{path}:{number}: turns: must be {len(question.turns)}, not {len(line.turns)}")
        before = turns.get(question.id, ("",) * len(line.turns))
        turns[question.id] = tuple(old if new is None else new for new, old in zip(line.turns, before, strict=True))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return References(f"{references.name or 'none'} + {path.name} ({digest})", turns)


def placeholders(question: Question, references: tuple[str, ...] | None, turn: int) -> dict[str, str]:
    """The fields of judges' prompts that do not depend on answers."""
    values = {"question": question.turns[0]} if turn == 1 else {}
    values |= {f"question_{place}": text for place, text in enumerate(question.turns[:turn], 1)}
    return values | {f"ref_answer_{place}": text for place, text in enumerate((references or ())[:turn], 1)}
