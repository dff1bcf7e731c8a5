"""A made-up OpenAI endpoint for the benchmark runner: what a test says about a request is what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mt_bench import answering, matches
from benchmarks.mt_bench.answering import AnswerPlan
from benchmarks.mt_bench.cache import Cache
from benchmarks.mt_bench.endpoint import Endpoint
from benchmarks.mt_bench.judging import JudgePlan, Judging
from benchmarks.mt_bench.question_set import QuestionSet, load
from benchmarks.mt_bench.records import Failure, Mode
from tests.component.fake_provider import FakeProvider, Reply, Seen

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
JSON = {"content-type": "application/json"}


def said(text: str | None, *, finish: str = "stop", usage: Any = USAGE, **message: Any) -> Reply:
    """A completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
        "logprobs": None,
    }
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Reply([json.dumps(body).encode()], headers=JSON)


def error(status: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's envelope."""
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": "x"}}
    return Reply([json.dumps(body).encode()], status=status, headers={**JSON, **headers})


def last(seen: Seen) -> str:
    """The last message of a request."""
    return str(seen.body["messages"][-1]["content"])


def provider(answer: Callable[[Seen], Reply]) -> FakeProvider:
    """One that answers by a function."""
    return FakeProvider(answer=answer)


def endpoint(fake: FakeProvider, **options: Any) -> Endpoint:
    """A client of it, with hardly any pause between attempts."""
    given: dict[str, Any] = {"timeout": 5.0, "attempts": 3, "first_pause": 0.001, **options}
    return Endpoint(f"{fake.url}/v1", "none", **given)


def small_set(folder: Path, *rows: dict[str, Any]) -> QuestionSet:
    """A set of these questions, or of two: one of two turns with a reference, one of a single turn."""
    given = rows or (
        {"question_id": 1, "category": "math", "turns": ["1 + 1?", "And + 1?"]},
        {"question_id": 2, "category": "writing", "turns": ["Write a word."]},
    )
    own = folder / "own"
    (own / "reference_answer").mkdir(parents=True, exist_ok=True)
    (own / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    reference = {"question_id": 1, "model_id": "r", "choices": [{"index": 0, "turns": ["Two.", "Three."]}]}
    (own / "reference_answer" / "r.jsonl").write_text(json.dumps(reference) + "\n")
    return load("own", folder)


async def answer(questions: QuestionSet, folder: Path, fake: FakeProvider, **plan: Any) -> list[Failure]:
    """All answers of the models that the plan names, or of model m; what failed."""
    given: dict[str, Any] = {"models": ["m"], **plan}
    async with endpoint(fake) as client:
        return await answering.answer(AnswerPlan(**given), questions, folder, client)


async def judge(
    questions: QuestionSet,
    folder: Path,
    fake: FakeProvider,
    *,
    mode: Mode = "single",
    baseline: str = "",
    judges: Sequence[str] = ("j",),
    **plan: Any,
) -> Judging:
    """All judgments of the answers that there are."""
    models = matches.answered_models(folder)
    answers = matches.load_answers(folder, models)
    who = matches.contests(mode, models, baseline)
    async with endpoint(fake) as client:
        judging = Judging(JudgePlan(**plan), folder, client, Cache(folder / "cache"))
        todo = [match for name in judges for match in matches.plan(questions, answers, name, who, folder).todo]
        await judging.play(todo, questions.ids)
    return judging
