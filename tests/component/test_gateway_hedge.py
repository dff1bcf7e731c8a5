"""A second worker for a late first token, on the real wire: the same answer, and what operators are told."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from mesh.v1.registry_pb2 import Route
from tests.component.gateway_fixture import GatewayUnderTest, body, without_identity
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually

FIELDS: dict[str, Any] = {"n": 2, "logprobs": True, "max_tokens": 9}


def late(**settings: Any) -> GatewayUnderTest:
    """A gateway whose next request goes to the newest worker."""
    return GatewayUnderTest(policy="round_robin", hedge_after=0.05, **settings)


def hedges(gateway: GatewayUnderTest, outcome: str) -> float:
    return gateway.metric("mesh_gateway_hedges_total", model="m", outcome=outcome)


@pytest.mark.parametrize("withheld", ["all", "all but the start"])
async def test_the_client_sees_no_difference(withheld: str) -> None:
    async with FakeWorker("well") as well, FakeWorker("slow") as slow, late() as gateway:
        await gateway.add(well)
        expected = without_identity(await gateway.stream(**FIELDS))
        slow.stalled = withheld == "all"
        slow.withheld = {"delta", "choice_finished", "finished"}
        await gateway.add(slow)
        assert without_identity(await gateway.stream(**FIELDS)) == expected
        assert (len(well.starts), len(slow.starts)) == (2, 1)
        await eventually(lambda: hedges(gateway, "won") == 1)
        if slow.stalled:
            await eventually(lambda: slow.cancels == [slow.starts[0].stream_id])


async def test_operators_and_clients_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway")
    async with FakeWorker("well") as well, FakeWorker("slow") as slow, late() as gateway:
        await gateway.add(well)
        await gateway.chat()
        slow.stalled = True
        await gateway.add(slow)
        answer = await gateway.http.post("/v1/chat/completions", json=body(), headers={"x-mesh-trace": "1"})
        trail = [
            (each["worker"], each["tokens"], each["outcome"]) for each in json.loads(answer.headers["x-mesh-trace"])
        ]
        assert trail == [("slow", 0, "outrun"), ("well", 12, "finished")]
        assert gateway.metric("mesh_gateway_attempts_total", model="m", outcome="outrun") == 1
        lines = [record.__dict__["facts"] for record in caplog.records if record.getMessage() == "request"]
    assert [line.get("hedge") for line in lines] == [None, "won"]


async def test_another_model_of_the_same_name_is_not_asked() -> None:
    """Which one answers would depend on who is slow."""
    async with FakeWorker("other", fingerprint="sha256:0000") as other, FakeWorker("slow") as slow, late() as gateway:
        await gateway.add(other)
        await gateway.chat()
        slow.stalled = True
        await gateway.add(slow)
        answering = asyncio.create_task(gateway.chat())
        await eventually(lambda: hedges(gateway, "no_place") == 1)
        slow.stalled = False
        assert (await answering).status_code == 200
        assert (len(other.starts), len(slow.starts)) == (1, 1)


async def test_an_operator_sets_it_for_a_model() -> None:
    async with FakeWorker("well") as well, FakeWorker("slow") as slow, GatewayUnderTest() as gateway:
        gateway.balancer.on_route("m", Route(policy="round_robin", hedge_after=0.05))
        await gateway.add(well)
        await gateway.chat()
        slow.stalled = True
        await gateway.add(slow)
        assert (await gateway.chat()).status_code == 200
        assert hedges(gateway, "won") == 1
