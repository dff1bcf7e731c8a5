"""Results of grading: means by model, turn and category, and the differences between models."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.mt_bench import stats
from benchmarks.mt_bench.counts import Counts, Questions, count, expected, failed_items
from benchmarks.mt_bench.matches import Answers
from benchmarks.mt_bench.records import Failure, Single
from benchmarks.mt_bench.stats import Difference, Mean

# What a judgment's question is filed under if the set does not hold it.
ELSEWHERE = "(not in the set)"


@dataclass(frozen=True, slots=True)
class ModelGrades:
    """A model in the eyes of a judge. `overall` is the mean over all grades, not a mean of means."""

    model: str
    overall: Mean
    turns: dict[int, Mean]
    categories: dict[str, Mean]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Gap:
    """The mean difference of two models' grades, over those that both have."""

    first: str
    second: str
    difference: Difference


@dataclass(frozen=True, slots=True)
class Grades:
    """All models in the eyes of one judge, the best first.

    `length_correlation` is Spearman's, of an answer's characters and its grade; None where it is not defined.
    """

    judge: str
    models: list[ModelGrades]
    gaps: list[Gap]
    length_correlation: float | None


def grade(
    name: str,
    judges: Sequence[str],
    lines: Sequence[Single],
    questions: Questions,
    failures: Sequence[Failure],
    answers: Answers,
) -> Grades:
    """Results of the lines of one judge, or of several together under a name."""
    by_model: dict[str, list[Single]] = {}
    for line in lines:
        by_model.setdefault(line.model, []).append(line)
    for failure in failures:
        if failure.kind != "pair":  # also of models that have nothing but failures
            by_model.setdefault(failure.model, [])
    graded = [_model(model, judges, mine, questions, failures) for model, mine in by_model.items()]
    graded.sort(key=lambda each: (-each.overall.value if each.overall.n else 1.0, each.model))
    return Grades(name, graded, _gaps([each.model for each in graded], by_model), _length_correlation(lines, answers))


def _model(
    model: str, judges: Sequence[str], lines: Sequence[Single], questions: Questions, failures: Sequence[Failure]
) -> ModelGrades:
    scored = [line for line in lines if line.scored]
    categories = dict.fromkeys(question.category for question in questions.values())
    categories |= dict.fromkeys(_category(line, questions) for line in scored)
    wanted = expected(questions, [(model,)], judges)
    return ModelGrades(
        model=model,
        overall=stats.mean(_by_question(scored)),
        turns={
            turn: stats.mean(_by_question(line for line in scored if line.turn == turn))
            for turn in sorted({line.turn for line in lines})
        },
        categories={
            category: stats.mean(_by_question(line for line in scored if _category(line, questions) == category))
            for category in categories
        },
        counts=count(wanted, lines, failed_items(wanted, failures)),
    )


def _category(line: Single, questions: Questions) -> str:
    question = questions.get(line.question_id)
    return ELSEWHERE if question is None else question.category


def _by_question(lines: Iterable[Single]) -> dict[object, list[float]]:
    groups: dict[object, list[float]] = {}
    for line in lines:
        groups.setdefault(line.question_id, []).append(float(line.score))
    return groups


def _gaps(order: Sequence[str], by_model: Mapping[str, Sequence[Single]]) -> list[Gap]:
    """All pairs, the better one first, with p-values corrected for their number."""
    found: list[Gap] = []
    for first, second in itertools.combinations(order, 2):
        gap = stats.difference(_differences(by_model[first], by_model[second]))
        if gap is not None:
            found.append(Gap(first, second, gap))
    corrected = stats.holm([gap.difference.p for gap in found])
    return [replace(gap, difference=replace(gap.difference, p_holm=p)) for gap, p in zip(found, corrected, strict=True)]


def _differences(first: Iterable[Single], second: Iterable[Single]) -> dict[object, list[float]]:
    """By question: one for each turn that both have a grade for from the same judge."""
    theirs = {(line.question_id, line.turn, line.judge[0]): line.score for line in second if line.scored}
    groups: dict[object, list[float]] = {}
    for line in first:
        score = theirs.get((line.question_id, line.turn, line.judge[0]))
        if line.scored and score is not None:
            groups.setdefault(line.question_id, []).append(float(line.score - score))
    return groups


def _length_correlation(lines: Sequence[Single], answers: Answers) -> float | None:
    pairs = [
        (len(answer.choices[0].turns[line.turn - 1]), float(line.score))
        for line in lines
        if line.scored
        and (answer := answers.get(line.model, {}).get(line.question_id)) is not None
        and answer.choices
        and len(answer.choices[0].turns) >= line.turn
    ]
    return stats.rank_correlation([length for length, _ in pairs], [score for _, score in pairs])
