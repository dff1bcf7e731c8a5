"""/v1/decisions: questions become chats that are held to a letter, and log probabilities become probabilities."""

from __future__ import annotations

import math
from typing import Any

import httpx
import openai
import pytest

from gateway.openai.decisions import probabilities
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker, Row
from tests.component.whole_mesh import whole

PREDICATE = {"type": "predicate", "instructions": "It is short."}
CHOICE = {"type": "choice", "instructions": "Which?", "name": "which", "choices": [{"value": "x"}, {"value": True}]}
SCORE = {
    "type": "score",
    "instructions": "How good?",
    "levels": [{"label": "bad"}, {"label": "fair", "description": "so so"}, {"label": "good"}],
}


def letters(**shares: float) -> pb.TokenLogprob:
    """A token's log probability beside others': letters, one of them with a space before it."""
    found = pb.TokenLogprob(token=b"A", logprob=math.log(shares["A"]))
    for name, share in shares.items():
        found.top.add(token=name.replace("_", " ").encode(), logprob=math.log(share))
    return found


def judging(worker: FakeWorker, first: pb.TokenLogprob) -> None:
    """Let a worker say this of each first token."""

    def alter(_: Row, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        for event in events:
            if event.HasField("delta") and event.delta.logprobs:
                event.delta.logprobs[0].CopyFrom(first)
        return events

    worker.alter = alter


@pytest.mark.parametrize(
    ("first", "count", "shares"),
    [
        (letters(A=0.5, B=0.25), 2, [2 / 3, 1 / 3]),
        (letters(A=0.25, _A=0.25, B=0.5), 2, [0.5, 0.5]),
        (letters(A=0.5, C=0.5), 2, [1, 0]),
        (letters(A=0.1, the=0.9), 3, [1, 0, 0]),
        (pb.TokenLogprob(token=b"B", logprob=-9999), 2, [0, 1]),
    ],
)
def test_probabilities_are_shares_of_the_letters_that_were_possible(
    first: pb.TokenLogprob, count: int, shares: list[float]
) -> None:
    assert probabilities(first, count) == pytest.approx(shares)


async def test_the_sdk_gets_an_answer_to_each_question() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        judging(worker, letters(A=0.25, B=0.75))
        await gateway.add(worker)
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
            questions: Any = [PREDICATE, CHOICE, SCORE]
            found = await client.decisions.create(model="m", input="A short text.", questions=questions)
    predicate, choice, score = found.answers
    assert predicate.type == "predicate"
    assert predicate.probability == pytest.approx(0.25)
    assert choice.type == "choice"
    assert (choice.choice, choice.name) == (True, "which")
    assert choice.confidence == pytest.approx(0.75)
    assert [each.value for each in choice.probabilities] == ["x", True]
    assert score.type == "score"
    assert score.score == pytest.approx(0.75)
    assert [(each.label, each.value) for each in score.probabilities] == [("bad", 0), ("fair", 1), ("good", 2)]
    assert (found.model, found.usage.output_tokens, found.usage.input_tokens) == ("m", 3, 15)
    texts = [start.request.chat.messages[0].parts[0].text for start in worker.starts]
    assert all(text.startswith("A short text.\n\n---\n") for text in texts)
    assert "B: fair (so so)" in texts[2]
    assert [list(start.request.constraint.choice.texts) for start in worker.starts] == [
        ["A", "B"],
        ["A", "B"],
        ["A", "B", "C"],
    ]


async def test_a_conversation_is_shown_with_its_roles() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        parts = [{"type": "output_text", "text": "yes"}]
        given = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": parts, "type": "message"}]
        body = {"model": "m", "input": given, "questions": [PREDICATE]}
        assert (await gateway.http.post("/v1/decisions", json=body)).status_code == 200
    (start,) = worker.starts
    assert start.request.chat.messages[0].parts[0].text.startswith("user: Is it?\n\nassistant: yes\n\n---\n")


async def test_an_engine_that_is_held_to_letters_answers() -> None:
    async with whole() as (gateway, _):
        body = {"model": "m", "input": "x", "questions": [CHOICE, SCORE]}
        answers = (await gateway.http.post("/v1/decisions", json=body)).json()["answers"]
    assert [answer["type"] for answer in answers] == ["choice", "score"]
    assert all(sum(each["probability"] for each in answer["probabilities"]) == pytest.approx(1) for answer in answers)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "", "questions": [PREDICATE]}, "input"),
        ({"input": "x", "questions": []}, "questions"),
        ({"input": "x", "questions": [PREDICATE] * 401}, "questions"),
        ({"input": "x", "questions": [{**CHOICE, "choices": [{"value": "x"}]}]}, "questions[0].choices"),
        ({"input": "x", "questions": [{**CHOICE, "choices": [{"value": "x"}] * 2}]}, "questions[0].choices"),
        ({"input": "x", "questions": [PREDICATE, {**SCORE, "levels": []}]}, "questions[1].levels"),
        ({"input": "x", "questions": [{"type": "other"}]}, "questions[0].type"),
        (
            {"input": [{"type": "function_call", "role": "user", "content": "x"}], "questions": [PREDICATE]},
            "input[0].type",
        ),
        ({"input": [{"role": "tool", "content": "x"}], "questions": [PREDICATE]}, "input[0].role"),
        (
            {"input": "x", "questions": [{**PREDICATE, "instructions": [{"type": "input_image"}]}]},
            "questions[0].instructions[0].type",
        ),
    ],
)
async def test_what_cannot_be_decided_is_refused(fields: dict[str, Any], param: str) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        response: httpx.Response = await gateway.http.post("/v1/decisions", json={"model": "m", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not worker.starts
