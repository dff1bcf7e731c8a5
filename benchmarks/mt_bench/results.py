"""All results of a run folder, from its files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mt_bench.alike import Alike, alike
from benchmarks.mt_bench.counts import Questions, item, reasons
from benchmarks.mt_bench.duels import Duels, compare
from benchmarks.mt_bench.grades import Grades, grade
from benchmarks.mt_bench.jsonl import BadFile
from benchmarks.mt_bench.matches import Answers, answered_models, load_answers
from benchmarks.mt_bench.question_set import QuestionSet
from benchmarks.mt_bench.records import Failure, Judgment, Mode, Pair, Single, all_judgments, by_judge, read_failures

ALL_JUDGES = "all judges"


@dataclass(frozen=True, slots=True)
class Lengths:
    """A model's answers: how many there are, and their median length in characters."""

    model: str
    answers: int
    median: float


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is shown. `references` counts the judgments by the reference answers that they saw."""

    bench: str
    questions: int
    prompts: list[str]
    singles: list[Single]
    pairs: list[Pair]
    grades: list[Grades]
    duels: list[Duels]
    alike: list[Alike]
    lengths: list[Lengths]
    references: dict[str, int]
    reasons: dict[str, int]


def collect(
    folder: Path,
    questions: QuestionSet,
    *,
    mode: Mode | None = None,
    models: Sequence[str] = (),
    judges: Sequence[str] = (),
    baseline: str | None = None,
) -> Results:
    """Read a folder: judgments of one mode or all, of some models and judges or all.

    Raises BadFile if there are none.
    """
    singles = [] if mode not in (None, "single") else _read(folder, Single, models, judges)
    pairs = [] if mode == "single" else _read(folder, Pair, models, judges)
    if not singles and not pairs:
        raise BadFile(f"{folder / 'model_judgment'} holds no judgments that are asked for")
    asked: Questions = {question.id: question for question in questions.questions}
    failures = [each for each in read_failures(folder) if not models or each.model in models]
    shown = dict.fromkeys(model for line in [*singles, *pairs] for model in item(line)[2])
    # FastChat's judgments may be looked at without the answers.
    answers = load_answers(folder, [model for model in answered_models(folder) if model in shown])
    return Results(
        bench=questions.name,
        questions=len(questions.questions),
        prompts=list(dict.fromkeys(line.judge[1] for line in [*singles, *pairs])),
        singles=singles,
        pairs=pairs,
        grades=_grades(singles, asked, failures, answers),
        duels=_duels(pairs, asked, failures, answers, baseline if mode != "pairwise-all" else None),
        alike=alike(singles, pairs),
        lengths=_lengths(answers),
        references=dict(Counter(line.references for line in [*singles, *pairs] if line.references)),
        reasons=dict(reasons([*singles, *pairs], [each for each in failures if _concerns(each, mode, judges)])),
    )


def _concerns(failure: Failure, mode: Mode | None, judges: Sequence[str]) -> bool:
    """Whether a failure has to do with what is shown."""
    if failure.kind == "answer":
        return True
    shown = mode is None or (failure.kind == "single") == (mode == "single")
    return shown and (not judges or failure.judge in judges)


def _read(folder: Path, kind: type[Judgment], models: Sequence[str], judges: Sequence[str]) -> list[Judgment]:
    return [
        line
        for line in all_judgments(folder, kind)
        if (not judges or line.judge[0] in judges) and (not models or all(each in models for each in item(line)[2]))
    ]


def _grades(
    lines: Sequence[Single], questions: Questions, failures: Sequence[Failure], answers: Answers
) -> list[Grades]:
    groups = by_judge(lines)
    found = [grade(judge, [judge], mine, questions, failures, answers) for judge, mine in groups.items()]
    if len(groups) > 1:
        found.insert(0, grade(ALL_JUDGES, [*groups], lines, questions, failures, answers))
    return found


def _duels(
    lines: Sequence[Pair], questions: Questions, failures: Sequence[Failure], answers: Answers, baseline: str | None
) -> list[Duels]:
    groups = by_judge(lines)
    found = [compare(judge, [judge], mine, questions, failures, answers, baseline) for judge, mine in groups.items()]
    if len(groups) > 1:
        found.insert(0, compare(ALL_JUDGES, [*groups], lines, questions, failures, answers, baseline))
    return [each for each in found if each.models]


def _lengths(answers: Answers) -> list[Lengths]:
    found: list[Lengths] = []
    for model, by_question in answers.items():
        texts = sorted(
            len(text) for answer in by_question.values() for choice in answer.choices[:1] for text in choice.turns
        )
        found.append(Lengths(model, len(by_question), texts[len(texts) // 2] if texts else 0))
    return found
