"""A reader that follows a generation: it gets tokens in the moment that they arrive, and `next` all the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.app import make_dispatch
from gateway.routing.events import Delta
from gateway.routing.generation import Event, Generation
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker, text_of_tokens, token_at
from tests.harness import eventually

LENGTH = 40
EXPECTED = text_of_tokens([token_at(7, 0, position) for position in range(LENGTH)])


class Recorder:
    """Notes all events in the order in which anybody got them, and how many came at once."""

    def __init__(self) -> None:
        self.reads = True
        self.at_once = 0
        self.broken = False
        self.events: list[Event] = []

    def ready(self) -> bool:
        return self.reads

    def take(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise RuntimeError("a reader that breaks")
        self.at_once += len(events)
        self.events += events

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))


async def follow(gateway: GatewayUnderTest, recorder: Recorder) -> None:
    """One generation to its end."""
    request = pb.GenerateRequest(model="m", text="x")
    request.sampling.seed = 7
    dispatch = make_dispatch(gateway.config, gateway.directory, gateway.balancer, gateway.aliases, gateway.metrics)
    generation = Generation(request, dispatch, streamed=True)
    generation.follow(recorder)
    try:
        while not generation.done:
            recorder.events += await generation.next()
            generation.delivered()
    finally:
        generation.close()


async def test_tokens_come_at_once_in_order_and_under_credit() -> None:
    async with FakeWorker("w", length=LENGTH) as worker, GatewayUnderTest(credit=16) as gateway:
        await gateway.add(worker)
        recorder = Recorder()
        await follow(gateway, recorder)
    assert recorder.text == EXPECTED
    assert recorder.at_once > LENGTH // 2
    assert sum(credit.tokens for credit in worker.credits) >= LENGTH - 16


async def test_a_reader_that_is_not_ready_finds_all_in_next() -> None:
    async with FakeWorker("w", length=LENGTH) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        recorder = Recorder()
        recorder.reads = False
        await follow(gateway, recorder)
    assert (recorder.text, recorder.at_once) == (EXPECTED, 0)


async def test_what_was_taken_at_once_is_not_asked_for_again_elsewhere() -> None:
    async with (
        FakeWorker("a", length=LENGTH) as a,
        FakeWorker("b", length=LENGTH) as b,
        GatewayUnderTest() as gateway,
    ):
        await gateway.add(a)
        a.stop_after = 20
        recorder = Recorder()
        following = asyncio.create_task(follow(gateway, recorder))
        await eventually(lambda: any(len(row.tokens[0]) == 20 for row in a.rows.values()) and recorder.at_once > 10)
        await gateway.add(b)
        await a.kill()
        await following
    assert recorder.text == EXPECTED
    assert len(b.starts[0].request.resume.choices[0].token_ids) == 20


async def test_a_reader_that_breaks_ends_its_own_generation_only() -> None:
    async with FakeWorker("w", length=LENGTH) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        broken, sound = Recorder(), Recorder()
        broken.broken = True
        beside = asyncio.create_task(follow(gateway, sound))
        with pytest.raises(RuntimeError, match="a reader that breaks"):
            await follow(gateway, broken)
        await beside
    assert sound.text == EXPECTED
    assert worker.sessions == 1
