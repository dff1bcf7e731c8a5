"""Requests go to workers that can do what they ask for; a model of which none can is a mistake of the request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import CAPABILITIES, FakeWorker
from tests.harness import eventually

PICTURE = "data:image/png;base64,iVBORw0KGgo="  # what counts is what it claims to be
LOOK = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]


@pytest.mark.parametrize(
    ("capability", "param", "fields"),
    [
        (pb.CAPABILITY_VISION, "messages", {"messages": LOOK}),
        (pb.CAPABILITY_CONSTRAINT, "constraint", {"response_format": {"type": "json_object"}}),
        (pb.CAPABILITY_LOGPROBS, "logprobs", {"logprobs": True}),
        (pb.CAPABILITY_PROMPT_LOGPROBS, "prompt_logprobs", {"prompt_logprobs": 1}),
        (pb.CAPABILITY_CHAT, "messages", {}),
    ],
)
async def test_only_a_worker_that_announces_it_is_asked(
    capability: pb.Capability, param: str, fields: dict[str, Any]
) -> None:
    every = {*CAPABILITIES, pb.CAPABILITY_VISION}
    async with (
        FakeWorker("a", capabilities=sorted(every - {capability})) as without,
        FakeWorker("b", capabilities=sorted(every)) as able,
        GatewayUnderTest() as gateway,
    ):
        await gateway.add(without)
        refused = await gateway.chat(**fields)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, param, "unsupported"), error
        await gateway.add(able)
        assert [(await gateway.chat(**fields)).status_code for _ in range(6)] == [200] * 6
    assert (len(without.starts), len(able.starts)) == (0, 6)


async def test_a_worker_that_can_is_waited_for_while_it_is_away() -> None:
    async with (
        FakeWorker("a", capabilities=(pb.CAPABILITY_CHAT, pb.CAPABILITY_RESUME)) as without,
        FakeWorker("b") as able,
        GatewayUnderTest() as gateway,
    ):
        await gateway.add(without, able)
        port = int(able.address.rpartition(":")[2])
        await able.kill()
        await eventually(lambda: not gateway.session("b"))
        answer = asyncio.create_task(gateway.chat(logprobs=True))
        await eventually(lambda: gateway.waiting == 1)
        await able.start(port)
        assert (await answer).status_code == 200
    assert without.starts == []


async def test_news_of_one_model_are_none_of_another() -> None:
    async with (
        FakeWorker("a") as worker,
        FakeWorker("b", models=("other",)) as other,
        GatewayUnderTest() as gateway,
    ):
        await gateway.add(worker, other)
        heard: list[str | None] = []
        gateway.directory.watch(heard.append, lambda _: None)
        live = gateway.directory.live("m")
        for zone in ("x", "y", "z"):
            record = other.record()
            record.labels["zone"] = zone
            gateway.directory.on_worker("b", record)
        assert gateway.directory.live("m") is live
        assert heard == ["other"] * 3
