"""Which judgments a mode asks for, with the exact prompts, and which of them are there already."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.mt_bench.answering import is_whole
from benchmarks.mt_bench.jsonl import BadFile
from benchmarks.mt_bench.prompts import JudgePrompt, choose
from benchmarks.mt_bench.question_set import QuestionSet, placeholders
from benchmarks.mt_bench.questions import Question, QuestionId
from benchmarks.mt_bench.records import (
    Answer,
    Mode,
    Pair,
    Single,
    answer_path,
    judgment_path,
    model_name,
    read_answers,
    read_judgments,
)

Answers = dict[str, dict[QuestionId, Answer]]


@dataclass(frozen=True, slots=True)
class Match:
    """One line of judgments: a model's answer in a turn, or those of two models in both orders.

    `texts` are the prompts: one, or one for each game. `references` names the reference answers in them, if any.
    """

    judge: str
    question: Question
    turn: int
    models: tuple[str, ...]
    prompt: JudgePrompt
    texts: tuple[str, ...]
    references: str | None


@dataclass(frozen=True, slots=True)
class Matches:
    """What is to be judged, how many are judged already, and how many cannot be for want of an answer."""

    todo: list[Match]
    done: int
    unanswered: int


def answered_models(folder: Path) -> list[str]:
    """The models that have answers in a folder, by name."""
    return sorted(model_name(path.stem) for path in (folder / "model_answer").glob("*.jsonl"))


def load_answers(folder: Path, models: Sequence[str]) -> Answers:
    """All answers of these models. Raises BadFile for a model that has none."""
    for model in models:
        if not answer_path(folder, model).exists():
            raise BadFile(f"model '{model}' has no answers in {folder / 'model_answer'}")
    return {model: read_answers(answer_path(folder, model)) for model in models}


def contests(mode: Mode, models: Sequence[str], baseline: str) -> list[tuple[str, ...]]:
    """Who is judged: each model alone, each against the baseline, or each pair. Raises BadFile if that is nobody."""
    if mode == "single":
        return [(model,) for model in models]
    if mode == "pairwise-baseline":
        found = [(model, baseline) for model in models if model != baseline]
    else:
        found = [*itertools.combinations(models, 2)]
    if not found:
        raise BadFile(f"--mode {mode} needs the answers of two models at least")
    return found


def plan(questions: QuestionSet, answers: Answers, judge: str, who: Sequence[tuple[str, ...]], folder: Path) -> Matches:
    """The matches of one judge."""
    done = _done(folder, judge, "single" if len(who[0]) == 1 else "pair")
    todo: list[Match] = []
    finished = unanswered = 0
    for question, turn in _turns(questions):
        for models in who:
            match = _match(questions, answers, judge, question, turn, models)
            if match is None:
                unanswered += 1
            elif done.get(_key(match)) == frozenset(match.texts):
                finished += 1
            else:
                todo.append(match)
    return Matches(todo, finished, unanswered)


def _turns(questions: QuestionSet) -> Iterator[tuple[Question, int]]:
    """First turns first."""
    for turn in (1, 2):
        for question in questions.questions:
            if turn <= len(question.turns):
                yield question, turn


def _done(folder: Path, judge: str, kind: Literal["single", "pair"]) -> dict[object, frozenset[str]]:
    """The prompts of the judgments with a verdict. One about another answer or reference has other prompts."""
    lines = read_judgments(judgment_path(folder, judge, kind), Single if kind == "single" else Pair)
    return {line.key: line.prompts for line in lines if line.scored}


def _key(match: Match) -> object:
    return (match.question.id, match.turn, *sorted(match.models), match.judge)


def _match(
    questions: QuestionSet, answers: Answers, judge: str, question: Question, turn: int, models: tuple[str, ...]
) -> Match | None:
    given = [answers[model].get(question.id) for model in models]
    whole = [answer for answer in given if answer is not None and is_whole(answer, question)]
    if len(whole) < len(models):
        return None
    references = questions.references.of(question)
    kind = "single" if len(models) == 1 else "pairwise"
    prompt = choose(questions.prompts, kind, question, turn, references is not None)
    fixed = placeholders(question, references, turn)
    turns = [answer.choices[0].turns for answer in whole]
    orders = [turns] if len(turns) == 1 else [turns, turns[::-1]]
    texts = tuple(prompt.text(fixed | _fields(order, turn)) for order in orders)
    name = questions.references.name if references is not None else None
    return Match(judge, question, turn, models, prompt, texts, name)


def _fields(turns: Sequence[Sequence[str]], turn: int) -> dict[str, str]:
    """The answers by the names that templates have for them: answer, answer_1, answer_a, answer_a_1 and so on."""
    sides = [""] if len(turns) == 1 else ["_a", "_b"]
    if turn == 1:
        return {f"answer{side}": mine[0] for side, mine in zip(sides, turns, strict=True)}
    return {
        f"answer{side}_{place}": text
        for side, mine in zip(sides, turns, strict=True)
        for place, text in enumerate(mine, 1)
    }
