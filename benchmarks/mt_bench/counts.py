"""What stands beside each mean: how many judgments are behind it, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.mt_bench.questions import Question, QuestionId
from benchmarks.mt_bench.records import Failure, Pair, Single

# What one judgment is about: question, turn, the models (sorted) and the judge.
Item = tuple[QuestionId, int, tuple[str, ...], str]
Questions = Mapping[QuestionId, Question]


@dataclass(frozen=True, slots=True)
class Counts:
    """Judgments: with a verdict, without one, failed (no answer, or no judgment), not yet made."""

    n: int
    unscored: int
    failed: int
    missing: int

    @property
    def text(self) -> str:
        """What is not behind a mean, for a table; a dash if nothing is."""
        parts = [("unscored", self.unscored), ("failed", self.failed), ("missing", self.missing)]
        return ", ".join(f"{count} {name}" for name, count in parts if count) or "–"


def item(line: Single | Pair) -> Item:
    """What a line is about."""
    models = (line.model,) if isinstance(line, Single) else tuple(sorted((line.model_1, line.model_2)))
    return (line.question_id, line.turn, models, line.judge[0])


def expected(questions: Questions, contests: Iterable[tuple[str, ...]], judges: Iterable[str]) -> list[Item]:
    """All that a whole run would judge."""
    turns = [(question.id, turn) for question in questions.values() for turn in range(1, len(question.turns) + 1)]
    return [(*turn, contest, judge) for judge in judges for contest in contests for turn in turns]


def count(wanted: Collection[Item], lines: Iterable[Single | Pair], failed: Collection[Item]) -> Counts:
    """What became of the items that are wanted."""
    made = {item(line): line.scored for line in lines}
    scored = sum(made.values())
    without = [each for each in wanted if each not in made]
    lost = sum(each in failed for each in without)
    return Counts(n=scored, unscored=len(made) - scored, failed=lost, missing=len(without) - lost)


def failed_items(wanted: Iterable[Item], failures: Iterable[Failure]) -> set[Item]:
    """The items of which a failure tells: of the judgment, or of an answer that it needs."""
    answers: set[tuple[QuestionId, str]] = set()
    judgments: set[tuple[QuestionId, int | None, tuple[str, ...], str | None]] = set()
    for failure in failures:
        if failure.kind == "answer":
            answers.add((failure.question_id, failure.model))
        else:
            models = tuple(sorted(model for model in (failure.model, failure.model_2) if model is not None))
            judgments.add((failure.question_id, failure.turn, models, failure.judge))
    return {each for each in wanted if each in judgments or any((each[0], model) in answers for model in each[2])}


def reasons(lines: Sequence[Single | Pair], failures: Iterable[Failure]) -> Counter[str]:
    """Why there is no verdict, and how often."""
    found = Counter(line.unscored or "no verdict; the file gives no reason" for line in lines if not line.scored)
    found.update(f"{failure.kind}: {failure.reason}" for failure in failures)
    return found
