"""A request that kills worker after worker is refused, and the innocent beside it are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import httpx

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest, body, without_identity
from tests.component.gateway_worker import CAPABILITIES, FakeWorker, Row
from tests.harness import eventually

LENGTH = 30
POISON = 666  # as the seed


class Mortal(FakeWorker):
    """Dies of the poison when the row has so many tokens."""

    def __init__(self, worker_id: str, *, at: int = 0, **options: Any) -> None:
        super().__init__(worker_id, pause=0.01, slots=64, **options)
        self.dead = False
        self.alter = self._drink
        self._at = at
        self._dying: asyncio.Task[None] | None = None

    def _drink(self, row: Row, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        if row.seed == POISON and len(row.tokens[0]) > self._at and not self.dead:
            self.dead = self.silent = True
            self._dying = asyncio.create_task(self.kill())
        return [] if self.dead else events


@asynccontextmanager
async def mortals(count: int, at: int = 0) -> AsyncGenerator[list[Mortal]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Mortal(f"w{index}", at=at)) for index in range(count)]


async def undisturbed(*seeds: int) -> list[list[Any]]:
    async with FakeWorker("w0") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        return [without_identity(await gateway.stream(max_tokens=LENGTH, seed=seed)) for seed in seeds]


async def test_alone_it_kills_two_and_no_third() -> None:
    async with mortals(4) as workers, GatewayUnderTest() as gateway:
        await gateway.add(*workers)
        response = await gateway.chat(seed=POISON)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (422, "request_quarantined")
        assert error["message"].startswith("2 workers died with this request")
        assert sum(worker.dead for worker in workers) == 2
        other_trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        chat = body(seed=POISON, user="somebody else")
        again = await gateway.http.post("/v1/chat/completions", json=chat, headers=other_trace)
        assert (again.status_code, again.json()["error"]["code"]) == (422, "request_quarantined")
        assert sum(len(worker.starts) for worker in workers) == 2
        assert (await gateway.chat(seed=1)).status_code == 200


async def test_in_the_middle_of_its_answer_too() -> None:
    async with mortals(4, at=5) as workers, GatewayUnderTest() as gateway:
        await gateway.add(*workers)
        events = await gateway.stream(max_tokens=LENGTH, seed=POISON)
        assert events[-1]["error"]["code"] == "request_quarantined"
        assert sum(worker.dead for worker in workers) == 2


async def test_the_others_on_the_dying_workers_are_answered() -> None:
    async with mortals(5) as workers, GatewayUnderTest() as gateway:
        await gateway.add(*workers)
        others = [asyncio.create_task(gateway.stream(max_tokens=LENGTH, seed=seed)) for seed in range(20)]
        await eventually(lambda: sum(len(worker.rows) for worker in workers) == 20)
        poisoned = await gateway.chat(max_tokens=LENGTH, seed=POISON)
        assert poisoned.json()["error"]["code"] == "request_quarantined"
        assert [without_identity(await answer) for answer in others] == await undisturbed(*range(20))
        assert sum(worker.dead for worker in workers) <= 3


async def test_a_lost_connection_is_no_death() -> None:
    """The process is there again at once, as often as its connection is cut."""
    async with FakeWorker("a") as a, GatewayUnderTest(max_attempts=10) as gateway:
        await gateway.add(a)
        a.stop_after = 2
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH, seed=3))
        for cut in range(1, 4):
            await eventually(lambda cut=cut: len(a.starts) == cut and a.rows)
            port = int(a.address.rpartition(":")[2])
            await a.kill()
            if cut == 3:
                a.stop_after = None
            await a.start(port)
        assert without_identity(await answer) == (await undisturbed(3))[0]


async def test_without_a_quarantine_attempts_are_the_only_limit() -> None:
    async with mortals(4) as workers, GatewayUnderTest(quarantine_after=0, max_attempts=2) as gateway:
        await gateway.add(*workers)
        response = await gateway.chat(seed=POISON)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "worker_lost")
        assert sum(worker.dead for worker in workers) == 3


class MortalEmbedder(Mortal):
    """Dies of an input that is called poison."""

    def __init__(self, worker_id: str, **options: Any) -> None:
        super().__init__(worker_id, capabilities=(*CAPABILITIES, pb.CAPABILITY_EMBED), **options)
        self.embeds = 0
        self.excuses = 0  # calls that it breaks off

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self.embeds += 1
        if any(each.text == "poison" for each in request.inputs):
            self.dead = self.silent = True
            self._dying = asyncio.create_task(self.kill())
            await asyncio.Event().wait()  # nobody answers any more
        if self.excuses:
            self.excuses -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as told")
        return pb.EmbedResponse(embeddings=[pb.Embedding(values=[1.0]) for _ in request.inputs], prompt_tokens=1)


async def embed(gateway: GatewayUnderTest, text: str, **headers: str) -> httpx.Response:
    return await gateway.http.post("/v1/embeddings", json={"model": "m", "input": text}, headers=headers)


@asynccontextmanager
async def embedders(count: int) -> AsyncGenerator[list[MortalEmbedder]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(MortalEmbedder(f"w{index}")) for index in range(count)]


async def test_an_input_to_embed_kills_two_and_no_third() -> None:
    async with embedders(4) as workers, GatewayUnderTest() as gateway:
        await gateway.add(*workers)
        for headers in ({}, {"x-request-id": "another"}):
            response = await embed(gateway, "poison", **headers)
            assert (response.status_code, response.json()["error"]["code"]) == (422, "request_quarantined")
        assert sum(worker.dead for worker in workers) == 2
        assert sum(worker.embeds for worker in workers) == 2
        assert (await embed(gateway, "bread")).status_code == 200


async def test_a_generation_beside_it_is_not_taken_for_the_culprit() -> None:
    """It had no token yet when both of its workers died, and nothing else was there but the call."""
    async with embedders(4) as workers, GatewayUnderTest() as gateway:
        for worker in workers[:2]:
            worker.stalled = True
        await gateway.add(workers[0])
        talk = asyncio.create_task(gateway.stream(max_tokens=4))
        await eventually(lambda: bool(workers[0].rows))
        poison = asyncio.create_task(embed(gateway, "poison"))
        await eventually(lambda: workers[0].dead)
        gateway.directory.on_worker(workers[1].worker_id, workers[1].record())
        await eventually(lambda: workers[1].dead)
        await gateway.add(*workers[2:])
        assert (await poison).json()["error"]["code"] == "request_quarantined"
        assert (await talk)[-1] == "[DONE]"
        assert sum(worker.dead for worker in workers) == 3


async def test_a_call_that_breaks_alone_is_no_death() -> None:
    async with embedders(2) as workers, GatewayUnderTest() as gateway:
        await gateway.add(*workers)
        for worker in workers:
            worker.excuses = 1
        assert (await embed(gateway, "bread")).status_code == 200
        assert sum(worker.embeds for worker in workers) == 3
