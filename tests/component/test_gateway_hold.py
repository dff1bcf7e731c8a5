"""No worker is live: wait for one, within limits; a model that is nowhere is another matter."""

from __future__ import annotations

import asyncio
import time

from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually


def held(gateway: GatewayUnderTest, count: int) -> bool:
    return gateway.waiting == count


async def test_requests_wait_for_the_first_worker() -> None:
    async with FakeWorker("w", slots=64) as worker, GatewayUnderTest() as gateway:
        answers = [asyncio.create_task(gateway.chat(max_tokens=2)) for _ in range(20)]
        await eventually(lambda: held(gateway, 20))
        await gateway.add(worker)
        assert [(await answer).status_code for answer in answers] == [200] * 20
        assert held(gateway, 0)


async def test_a_known_model_is_waited_for_when_its_worker_is_gone() -> None:
    async with (
        FakeWorker("a") as a,
        FakeWorker("b", models=("other",)) as b,
        FakeWorker("c") as c,
        GatewayUnderTest(grace_period=0.0) as gateway,
    ):
        await gateway.add(a, b)
        gateway.directory.on_worker("a", None)
        answer = asyncio.create_task(gateway.chat())
        await eventually(lambda: held(gateway, 1))
        await gateway.add(c)
        assert (await answer).status_code == 200


async def test_the_wait_is_limited_in_time() -> None:
    async with GatewayUnderTest(queue_timeout=0.3) as gateway:
        begun = time.monotonic()
        response = await gateway.chat()
        assert 0.3 <= time.monotonic() - begun < 3
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_worker")
    assert int(response.headers["retry-after"]) >= 1


async def test_the_wait_is_limited_in_number() -> None:
    async with GatewayUnderTest(queue_limit=2) as gateway:
        waiting = [asyncio.create_task(gateway.chat()) for _ in range(2)]
        await eventually(lambda: held(gateway, 2))
        response = await gateway.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_worker")
        assert "limit 2" in response.json()["error"]["message"]
        for task in waiting:
            task.cancel()
        await eventually(lambda: held(gateway, 0))


async def test_an_unknown_model_is_refused_with_the_list_of_served_ones() -> None:
    async with FakeWorker("w", models=("x", "y/z")) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        response = await gateway.chat(model="nope")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "x, y/z" in error["message"]
