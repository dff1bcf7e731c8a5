"""x-deadline-ms: the worker is told, and when it has passed the request ends, wherever it is."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from mesh.errors import deadline_passed
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually

CHAT = "/v1/chat/completions"
SOON = {"x-deadline-ms": "300"}


def ended(response: httpx.Response) -> bool:
    return (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_worker_is_told_how_long_the_answer_is_of_use() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        response = await gateway.http.post(CHAT, json=body(), headers={"x-deadline-ms": "60000"})
        assert response.status_code == 200
        await gateway.chat()
        limited, free = (start.request for start in worker.starts)
        assert 0 < limited.deadline_ms <= 60_000
        assert not free.HasField("deadline_ms")


async def test_a_deadline_ends_a_request_that_waits_for_its_first_token() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        worker.stalled = True
        await gateway.add(worker)
        response = await gateway.http.post(CHAT, json=body(), headers=SOON)
        assert ended(response)
        assert response.json()["error"]["message"] == deadline_passed(0.3).message
        await eventually(lambda: worker.cancels and not worker.rows)


async def test_a_deadline_in_mid_answer_is_an_error_event() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        worker.stop_after = 3
        await gateway.add(worker)
        async with gateway.http.stream("POST", CHAT, json=body(stream=True), headers=SOON) as response:
            assert response.status_code == 200
            lines = [line async for line in response.aiter_lines() if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        await eventually(lambda: worker.cancels and not worker.rows)


async def test_a_deadline_ends_the_wait_for_a_worker() -> None:
    async with GatewayUnderTest() as gateway:
        assert ended(await gateway.http.post(CHAT, json=body(), headers=SOON))
        several = {"model": "m", "prompt": ["a", "b"]}
        assert ended(await gateway.http.post("/v1/completions", json=several, headers=SOON))
        embed = {"model": "m", "input": "x"}
        assert ended(await gateway.http.post("/v1/embeddings", json=embed, headers=SOON))
        await eventually(lambda: gateway.metric("mesh_gateway_active_requests") == 0)


async def test_a_deadline_that_is_kept_changes_nothing() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        answers = [
            gateway.http.post(CHAT, json=body(max_tokens=3), headers={"x-deadline-ms": "4294967295"}) for _ in range(3)
        ]
        assert [response.status_code for response in await asyncio.gather(*answers)] == [200] * 3


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "", "4294967296"])
async def test_a_deadline_that_is_none(value: str) -> None:
    async with GatewayUnderTest() as gateway:
        response = await gateway.http.post(CHAT, json=body(), headers={"x-deadline-ms": value})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "x-deadline-ms")
        assert f"not '{value}'" in error["message"]
