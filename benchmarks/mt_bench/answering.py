"""Models answer the questions: one line for each answer, as it comes; what is there already is not asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.mt_bench import pool
from benchmarks.mt_bench.endpoint import Endpoint, Failed, Message, Reply
from benchmarks.mt_bench.jsonl import Appender, BadFile, replace
from benchmarks.mt_bench.question_set import QuestionSet
from benchmarks.mt_bench.questions import Question, QuestionId
from benchmarks.mt_bench.records import (
    Answer,
    Choice,
    Failure,
    Settings,
    Usage,
    answer_path,
    failures_path,
    latest_answers,
    now,
    read_answers,
    read_failures,
    tidy,
)

FASTCHAT_FAILURE: Final = "$ERROR$"


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What to ask. `temperature` overrides the questions' own, one below 0 sends none; `seed` is that of the first
    choice, None sends none."""

    models: Sequence[str]
    choices: int = 1
    max_tokens: int = 1024
    temperature: float | None = None
    system: str | None = None
    seed: int | None = 0
    limit: int = 16
    limit_each: int = 16

    def settings(self, question: Question) -> Settings:
        """With which a question is asked."""
        given = question.temperature if self.temperature is None else self.temperature
        return Settings(
            temperature=None if given < 0 else given, max_tokens=self.max_tokens, system=self.system, seed=self.seed
        )


Job = tuple[str, Question]


def missing(plan: AnswerPlan, questions: QuestionSet, folder: Path) -> dict[str, list[Job]]:
    """What is still to be asked, by model. Raises BadFile where answers were made with other settings."""
    return {
        model: [(model, question) for question in _unanswered(plan, model, questions, folder)] for model in plan.models
    }


def _unanswered(plan: AnswerPlan, model: str, questions: QuestionSet, folder: Path) -> list[Question]:
    path = answer_path(folder, model)
    answers = read_answers(path)
    for question in questions.questions:
        answer = answers.get(question.id)
        if answer is not None and answer.settings is not None:
            _same_settings(answer.settings, plan.settings(question), f"{path}: question {question.id}")
    return [
        question
        for question in questions.questions
        if not is_whole(answers.get(question.id), question, choices=plan.choices)
    ]


def is_whole(answer: Answer | None, question: Question, choices: int = 1) -> bool:
    """Whether there is an answer that can be judged: enough choices with all turns, and something in each."""
    return (
        answer is not None
        and len(answer.choices) >= choices
        and all(
            len(choice.turns) == len(question.turns) and all(map(is_said, choice.turns)) for choice in answer.choices
        )
    )


def is_said(text: str) -> bool:
    """Whether there is anything to judge: FastChat writes a mark where an answer failed."""
    return bool(text.strip()) and text != FASTCHAT_FAILURE


def _same_settings(was: Settings, is_: Settings, where: str) -> None:
    for name in Settings.__struct_fields__:
        before, after = getattr(was, name), getattr(is_, name)
        if before != after:
            raise BadFile(f"{where} was answered with {name} {before}, not {after}: give it, or another --out")


async def answer(plan: AnswerPlan, questions: QuestionSet, folder: Path, endpoint: Endpoint) -> list[Failure]:
    """Ask what is missing, and tell what failed. Afterwards the files are in the questions' order, with each question
    once."""
    appender = Appender()
    failures: list[Failure] = []

    async def work(job: Job) -> bool:
        model, question = job
        made = await _ask(plan, model, question, endpoint)
        if isinstance(made, Answer):
            await appender.append(answer_path(folder, model), made)
            return True
        failure = Failure(kind="answer", question_id=question.id, model=model, reason=made.reason, tstamp=now())
        await appender.append(failures_path(folder), failure)
        failures.append(failure)
        return False

    jobs = missing(plan, questions, folder)
    await pool.run(jobs, work, limit=plan.limit, limit_each=plan.limit_each, title="answers")
    for model in plan.models:
        tidy(answer_path(folder, model), Answer, questions.ids, latest_answers)
    forget_failures(plan, questions, folder)
    return failures


async def _ask(plan: AnswerPlan, model: str, question: Question, endpoint: Endpoint) -> Answer | Failed:
    settings = plan.settings(question)
    usage: Usage | None = Usage()
    choices: list[Choice] = []
    for index in range(plan.choices):
        replies = await _converse(model, question, settings, index, endpoint)
        if isinstance(replies, Failed):
            return replies
        thinking = [reply.thinking for reply in replies]
        turns = [reply.text for reply in replies]
        choices.append(Choice(index=index, turns=turns, thinking=thinking if any(thinking) else None))
        for reply in replies:
            usage = usage + reply.usage if usage is not None and reply.usage is not None else None
    return Answer(
        question_id=question.id,
        answer_id=_answer_id(model, question.id, choices),
        model_id=model,
        choices=choices,
        tstamp=now(),
        settings=settings,
        usage=usage,
    )


async def _converse(
    model: str, question: Question, settings: Settings, index: int, endpoint: Endpoint
) -> list[Reply] | Failed:
    """All turns of one choice, each knowing those before it."""
    messages: list[Message] = [{"role": "system", "content": settings.system}] if settings.system else []
    seed = None if settings.seed is None else settings.seed + index
    given: dict[str, Any] = {"temperature": settings.temperature, "seed": seed}
    sent = {name: value for name, value in given.items() if value is not None}
    replies: list[Reply] = []
    for turn, text in enumerate(question.turns, 1):
        messages.append({"role": "user", "content": text})
        reply = await endpoint.chat(model, messages, settings.max_tokens, **sent)
        if isinstance(reply, Failed):
            return Failed(f"turn {turn}: {reply.reason}")
        if not reply.text.strip():
            thought = ", after thinking only" if reply.thinking else ""
            return Failed(f"turn {turn}: empty answer{thought} (finish_reason {reply.finish or 'unknown'})")
        messages.append({"role": "assistant", "content": reply.text})
        replies.append(reply)
    return replies


def _answer_id(model: str, question: QuestionId, choices: list[Choice]) -> str:
    """The same for the same answer, so that a run that was resumed is that which was not."""
    return hashlib.sha256(msgspec.json.encode((model, question, choices))).hexdigest()[:22]


def forget_failures(plan: AnswerPlan, questions: QuestionSet, folder: Path) -> None:
    """Take out of the failures the answers that are there by now."""
    failures = read_failures(folder)
    asked = {question.id: question for question in questions.questions}
    answered = {
        model: read_answers(answer_path(folder, model))
        for model in {failure.model for failure in failures if failure.kind == "answer"}
    }

    def over(failure: Failure) -> bool:
        question = asked.get(failure.question_id)
        if failure.kind != "answer" or question is None:
            return False
        return is_whole(answered[failure.model].get(failure.question_id), question, plan.choices)

    keep_failures(folder, failures, [failure for failure in failures if not over(failure)])


def keep_failures(folder: Path, before: Sequence[Failure], after: Sequence[Failure]) -> None:
    """Write the failures anew, the last one of each item, if there is a difference. No failures are no file."""
    last = {(f.kind, f.question_id, f.model, f.model_2, f.judge, f.turn): f for f in after}
    rows = [msgspec.json.encode(failure) + b"\n" for failure in last.values()]
    if not rows:
        failures_path(folder).unlink(missing_ok=True)
    elif len(rows) != len(before):
        replace(failures_path(folder), rows)
