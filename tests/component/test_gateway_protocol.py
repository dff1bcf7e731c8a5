"""Workers that break the protocol: left at once as from a fault, and never a wrong answer.

The bad worker does as it should until its row has so many tokens, and then one thing that it should not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest, without_identity
from tests.component.gateway_worker import FakeWorker, Row
from tests.harness import eventually

LENGTH = 12
AT = 5
# With log probabilities a worker tells each token as an event, without them in columns.
COLUMNS: dict[str, Any] = {"stream_options": {"include_usage": True}}
FIELDS: dict[str, Any] = {**COLUMNS, "logprobs": True}
Events = list[pb.StreamEvent]
Misdeed = Callable[[Row, Events], Events]


def event(row: Row, **fields: Any) -> pb.StreamEvent:
    return pb.StreamEvent(stream_id=row.id, **fields)


def end(row: Row, **fields: Any) -> Events:
    return [event(row, choice_finished=pb.ChoiceFinished(**fields))]


def changed(events: Events, **fields: Any) -> Events:
    for each in events:
        if each.HasField("delta"):
            each.delta.MergeFrom(pb.Delta(**fields))
    return events


def without_logprobs(row: Row, events: Events) -> Events:
    for each in events:
        each.delta.ClearField("logprobs")
    return events


MISDEEDS: dict[str, Misdeed] = {
    "a message twice": lambda row, events: events * 2,
    "a message lost": lambda row, events: [],
    "messages swapped": lambda row, events: row.step("", 0) + events,
    "from the beginning again": lambda row, events: changed(events, position=0) if row.tokens[0] else events,
    "another choice": lambda row, events: changed(events, choice=3),
    "no log probabilities": without_logprobs,
    "started twice": lambda row, events: [event(row, started=pb.Started(prompt_tokens=5)), *events],
    "an end before its last token": lambda row, events: end(row, reason=pb.FINISH_REASON_STOP, tokens=AT + 1),
    "an end without a reason": lambda row, events: end(row, tokens=AT),
    "the last event too early": lambda row, events: [event(row, finished=pb.Finished())],
    "text of the end, and then tokens": lambda row, events: [event(row, delta=pb.Delta(text="end")), *events],
}
# What it does at the end of the answer.
LAST_MISDEEDS: dict[str, Misdeed] = {
    "tokens after the end": lambda row, events: events[:-1] + changed(events[:1], position=LENGTH),
    "an end twice": lambda row, events: events[:-1] + events[-2:],
    "wrong usage": lambda row, events: [*events[:-1], event(row, finished=pb.Finished(usage=WRONG))],
}
WRONG = pb.Usage(prompt_tokens=1, completion_tokens=2, cached_tokens=3)


def once(misdeed: Misdeed, tokens: int) -> Misdeed:
    def alter(row: Row, events: Events) -> Events:
        return misdeed(row, events) if len(row.tokens[0]) == tokens else events

    return alter


_known: dict[bool, list[Any]] = {}


async def undisturbed(*, columns: bool = False) -> list[Any]:
    """What a single, perfect worker makes of it; asked once."""
    if columns not in _known:
        async with FakeWorker("w0") as worker, GatewayUnderTest() as gateway:
            await gateway.add(worker)
            events = await gateway.stream(max_tokens=LENGTH, **(COLUMNS if columns else FIELDS))
            _known[columns] = without_identity(events)
    return deepcopy(_known[columns])


@pytest.mark.parametrize(
    ("misdeed", "columns"),
    [*((name, False) for name in MISDEEDS), ("a message twice", True), ("a message lost", True)],
)
async def test_it_is_left_at_once_and_the_answer_is_right(misdeed: str, *, columns: bool) -> None:
    async with FakeWorker("a", pause=0.01) as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.alter = once(MISDEEDS[misdeed], AT + 1)
        await gateway.add(a)
        fields = COLUMNS if columns else FIELDS
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH, **fields))
        await eventually(lambda: a.rows)
        await gateway.add(b)
        assert without_identity(await answer) == await undisturbed(columns=columns)
        assert b.starts
        assert gateway.metric("mesh_gateway_attempts_total", model="m", outcome="protocol") == 1
        await eventually(lambda: not a.rows)


@pytest.mark.parametrize("misdeed", LAST_MISDEEDS.values(), ids=LAST_MISDEEDS.keys())
async def test_at_the_end_of_the_answer_too(misdeed: Misdeed) -> None:
    async with FakeWorker("a", pause=0.01) as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.alter = once(misdeed, LENGTH)
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH, **FIELDS))
        await eventually(lambda: a.rows)
        await gateway.add(b)
        assert without_identity(await answer) == await undisturbed()


async def test_a_worker_that_serves_another_model_than_it_registered_is_refused() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.answers_as = "sha256:other"
        await gateway.add(a)
        response = await gateway.chat(max_tokens=LENGTH)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "wrong_model")
        await gateway.add(b)
        for _ in range(8):
            events = await gateway.stream(max_tokens=LENGTH, **FIELDS)
            assert without_identity(events) == await undisturbed()
        assert len(a.starts) > 1, "nobody asked the wrong one"


async def test_a_resumed_prompt_of_another_length_is_another_prompt() -> None:
    def longer(row: Row, events: Events) -> Events:
        for each in events:
            if each.HasField("started"):
                each.started.prompt_tokens += 1
        return events

    workers = FakeWorker("a"), FakeWorker("b"), FakeWorker("c")
    async with workers[0] as a, workers[1] as b, workers[2] as c, GatewayUnderTest(max_attempts=1000) as gateway:
        a.stop_after, b.alter = AT, longer
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH, **FIELDS))
        await eventually(lambda: any(len(row.tokens[0]) == AT for row in a.rows.values()))
        await gateway.add(b)
        await a.kill()
        await eventually(lambda: b.starts)
        await gateway.add(c)
        assert without_identity(await answer) == await undisturbed()


async def test_a_worker_that_is_always_wrong_ends_in_a_clear_error() -> None:
    async with FakeWorker("a") as a, GatewayUnderTest(max_attempts=2) as gateway:
        a.alter = lambda row, events: changed(events, position=7)
        await gateway.add(a)
        response = await gateway.chat(max_tokens=LENGTH)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "protocol_error")
    assert "sent token 7 of choice 0 where token 0 was next" in response.json()["error"]["message"]
    assert len(a.starts) == 3
