"""Workers that pass on a provider's text, without token ids: what can move, and what must end rather than repeat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.component.gateway_fixture import GatewayUnderTest, text, without_identity
from tests.component.gateway_worker import PROMPT_TOKENS, FakeWorker
from tests.harness import eventually

LENGTH = 12


def reached(worker: FakeWorker, tokens: int) -> bool:
    return any(len(row.tokens[0]) >= tokens for row in worker.rows.values())


async def whole(**fields: Any) -> list[Any]:
    async with FakeWorker("w0") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        return without_identity(await gateway.stream(max_tokens=LENGTH, **fields))


async def test_a_text_only_answer_streams_and_has_the_counts_of_its_end() -> None:
    fields = {"stream_options": {"include_usage": True}, "n": 2}
    async with FakeWorker("a") as a, GatewayUnderTest() as gateway:
        a.text_only = True
        await gateway.add(a)
        events = without_identity(await gateway.stream(max_tokens=LENGTH, **fields))
        await eventually(lambda: gateway.tokens("input") == PROMPT_TOKENS)
        counted = gateway.tokens("output")
    assert events == await whole(**fields)
    assert counted == events[-2]["usage"]["completion_tokens"] > 0


async def test_it_is_sent_before_the_end() -> None:
    async with FakeWorker("a") as a, GatewayUnderTest() as gateway:
        a.text_only, a.stop_after = True, 4
        await gateway.add(a)
        request = gateway.http.build_request(
            "POST",
            "/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": LENGTH},
        )
        response = await gateway.http.send(request, stream=True)
        lines = response.aiter_lines()
        found = ""
        while found.count(" w") < 3:  # of the four tokens that there are, the last is held back
            found += await anext(lines)
        await response.aclose()


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_after_its_first_text_a_lost_answer_ends_with_an_error_and_nothing_twice(after: int) -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.text_only, a.stop_after = True, after
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: a.starts and reached(a, after))
        await gateway.add(b)
        await a.kill()
        async with asyncio.timeout(5):  # it does not wait for a worker that could go on: there is none
            events = await answer
    if not after:
        assert without_identity(events) == await whole()
        return
    assert b.starts == []
    assert events[-1]["error"]["code"] == "worker_lost"
    assert text(await whole()).startswith(text(events[:-1]))


async def test_a_draining_worker_ends_it_in_place() -> None:
    async with FakeWorker("a", pause=0.01) as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.text_only = True
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 3))
        await gateway.add(b)
        a.draining = True
        assert without_identity(await answer) == await whole()
        assert b.starts == []


async def test_a_lost_last_event_is_not_made_up() -> None:
    async with FakeWorker("a") as a, GatewayUnderTest() as gateway:
        a.text_only, a.withheld = True, {"finished"}
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: a.starts and not a.rows)
        await a.kill()
        assert (await answer)[-1]["error"]["code"] == "worker_lost"


async def test_each_piece_takes_one_token_of_credit() -> None:
    async with FakeWorker("a") as a, GatewayUnderTest(credit=16) as gateway:
        a.text_only = True
        await gateway.add(a)
        events = await gateway.stream(max_tokens=60)
        assert events[-1] == "[DONE]"
        assert sum(credit.tokens for credit in a.credits) >= 60 - 16
