"""`x-mesh-trace: 1`: which worker, in which incarnation, produced which tokens."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually

ASK = {"x-mesh-trace": "1"}


def post(gateway: GatewayUnderTest, headers: dict[str, str], **fields: Any) -> Any:
    return gateway.http.post("/v1/chat/completions", json=body(**fields), headers=headers)


def comment(answer: httpx.Response) -> list[dict[str, Any]]:
    [line] = [line for line in answer.text.splitlines() if line.startswith(":")]
    return json.loads(line.removeprefix(": x-mesh-trace "))


async def test_a_moved_stream_tells_both_workers() -> None:
    async with FakeWorker("a") as a, FakeWorker("b", incarnation="i2") as b, GatewayUnderTest() as gateway:
        await gateway.add(a)
        a.stop_after = 5
        answering = asyncio.create_task(post(gateway, ASK, stream=True, max_tokens=12))
        await eventually(lambda: any(len(row.tokens[0]) == 5 for row in a.rows.values()))
        await gateway.add(b)
        await a.kill()
        answer = await answering
    lost, finished = comment(answer)
    assert lost == {"worker": "a", "incarnation": "i1", "first": 0, "tokens": 5, "outcome": "lost"}
    assert finished == {"worker": "b", "incarnation": "i2", "first": 5, "tokens": 7, "outcome": "finished"}
    events = [line for line in answer.text.splitlines() if line and not line.startswith(":")]
    assert events[-1] == "data: [DONE]"


async def test_an_answer_in_one_piece_has_it_in_a_header_if_asked() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        asked, silent, refused = [
            await post(gateway, ASK, max_tokens=4),
            await post(gateway, {}, max_tokens=4),
            await post(gateway, ASK, model="nope"),
        ]
    [attempt] = json.loads(asked.headers["x-mesh-trace"])
    assert (attempt["worker"], attempt["tokens"], attempt["outcome"]) == ("w", 4, "finished")
    assert "x-mesh-trace" not in silent.headers
    assert json.loads(refused.headers["x-mesh-trace"]) == []
