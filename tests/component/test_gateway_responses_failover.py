"""The events of a response whose worker is killed after each of its tokens are those of one whose worker lives."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import pytest

from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.component.test_gateway_failover import reached
from tests.component.test_gateway_responses import CALL, WEATHER, WORDS, serving, stream, talker, thinker
from tests.harness import eventually

CASES: dict[str, tuple[bool, tuple[str, ...], dict[str, Any]]] = {
    "text": (False, WORDS, {}),
    "log probabilities": (False, WORDS, {"include": ["message.output_text.logprobs"], "top_logprobs": 0}),
    "reasoning and a call": (True, CALL, {"tools": [WEATHER]}),
}


def worker_of(case: str, name: str) -> FakeWorker:
    thinks, script, _ = CASES[case]
    like = (thinker if thinks else talker)(*script)
    worker = FakeWorker(name)
    worker.script, worker.markup = like.script, like.markup
    return worker


def told_apart(events: list[Any]) -> list[str]:
    """The events without ids and times, which differ between any two responses."""
    varied = re.compile(r"(resp|msg|rs|fc|call)_[0-9a-zA-Z]+|'(created|completed)_at': [0-9.]+")
    return [varied.sub("", str(event.to_dict())) for event in events]


@pytest.mark.parametrize("case", CASES)
async def test_a_worker_killed_at_every_token_is_not_noticed(case: str) -> None:
    _, script, fields = CASES[case]
    async with serving(worker_of(case, "w")) as gateway:
        expected = told_apart(await stream(gateway, **fields))
    for after in range(1, len(script)):
        async with worker_of(case, "a") as a, worker_of(case, "b") as b, GatewayUnderTest() as gateway:
            a.stop_after = after
            await gateway.add(a)
            answer = asyncio.create_task(stream(gateway, **fields))
            await eventually(partial(reached, a, after))
            await gateway.add(b)
            await a.kill()
            assert told_apart(await answer) == expected, after
            assert b.starts[0].request.resume.choices[0].token_ids
