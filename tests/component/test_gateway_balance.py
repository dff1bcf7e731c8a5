"""Balancing over the real wire: who gets which request, as the policies say and as operators set them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

from mesh.v1.registry_pb2 import Route
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import PROMPT_TOKENS, FakeWorker
from tests.harness import eventually


async def fleet(stack: AsyncExitStack, gateway: GatewayUnderTest, count: int) -> list[FakeWorker]:
    workers = [await stack.enter_async_context(FakeWorker(f"w{index}", slots=64)) for index in range(count)]
    await gateway.add(*workers)
    return workers


def asked(workers: list[FakeWorker]) -> list[int]:
    return [len(worker.starts) for worker in workers]


def turns(conversation: int, count: int) -> list[dict[str, Any]]:
    """The messages of a conversation up to its turn of that number."""
    messages = [{"role": "user", "content": f"Conversation {conversation}"}]
    for turn in range(1, count):
        messages.append({"role": "assistant", "content": f"Answer {turn}"})
        messages.append({"role": "user", "content": f"Question {turn}"})
    return messages


async def test_conversations_stick_to_their_workers_through_every_gateway() -> None:
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(GatewayUnderTest()) for _ in range(2)]
        workers = await fleet(stack, gateways[0], 3)
        await gateways[1].add(*workers)
        places: dict[int, set[str]] = {number: set() for number in range(12)}
        for turn in range(1, 5):
            for number in places:
                before = asked(workers)
                await gateways[turn % 2].chat(messages=turns(number, turn), max_tokens=1)
                after = asked(workers)
                places[number].add(next(f"w{i}" for i in range(3) if after[i] > before[i]))
    assert all(len(each) == 1 for each in places.values()), places
    assert {worker for each in places.values() for worker in each} == {"w0", "w1", "w2"}


async def test_what_was_foretold_is_set_beside_what_was_cached() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        await gateway.chat(max_tokens=1)
        worker.cached = PROMPT_TOKENS - 1
        await gateway.chat(max_tokens=1)

        def tokens(kind: str) -> float:
            return gateway.metric("mesh_gateway_prefix_tokens_total", model="m", type=kind)

        # The second time it was taken for granted that all is cached, and one token was not.
        assert [tokens(kind) for kind in ("prompt", "predicted", "cached", "error")] == [
            *(2 * PROMPT_TOKENS, PROMPT_TOKENS, PROMPT_TOKENS - 1),
            1,
        ]
        assert gateway.metric("mesh_gateway_prefix_picks_total", model="m", place="hashed") == 1
        assert gateway.metric("mesh_gateway_prefix_picks_total", model="m", place="known") == 1


async def test_a_busy_worker_is_left_and_the_conversation_stays_where_it_went() -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayUnderTest())
        workers = [await stack.enter_async_context(FakeWorker(f"w{i}", slots=2)) for i in range(2)]
        await gateway.add(*workers)
        long = asyncio.create_task(gateway.chat(messages=turns(1, 1), max_tokens=100_000))
        await eventually(lambda: workers[0].rows or workers[1].rows)
        home, other = sorted(workers, key=lambda worker: not worker.rows)
        await gateway.chat(messages=turns(1, 2), max_tokens=1)
        assert asked([home, other]) == [1, 1]
        assert gateway.metric("mesh_gateway_prefix_picks_total", model="m", place="busy") == 1
        long.cancel()
        await eventually(lambda: not any(session.load.running for session in gateway.directory.sessions()))
        await gateway.chat(messages=turns(1, 3), max_tokens=1)
        assert asked([home, other]) == [1, 2]


async def test_an_operator_sets_the_policy_of_a_model() -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayUnderTest())
        workers = await fleet(stack, gateway, 3)
        for _ in range(6):
            await gateway.chat(max_tokens=1)
        assert sorted(asked(workers)) == [0, 0, 6]
        gateway.balancer.on_route("m", Route(policy="round_robin"))
        for _ in range(6):
            await gateway.chat(max_tokens=1)
        assert sorted(asked(workers)) == [2, 2, 8]
        gateway.balancer.on_route("m", None)
        for _ in range(6):
            await gateway.chat(max_tokens=1)
        assert sorted(asked(workers)) == [2, 2, 14]


async def test_the_flag_sets_it_for_all_models() -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayUnderTest(policy="round_robin"))
        workers = await fleet(stack, gateway, 3)
        for _ in range(9):
            await gateway.chat(max_tokens=1)
        assert asked(workers) == [3, 3, 3]


async def test_a_weight_from_the_registry_counts() -> None:
    async with FakeWorker("a") as light, FakeWorker("b") as heavy, GatewayUnderTest(policy="round_robin") as gateway:
        record = heavy.record()
        record.weight = 3
        gateway.directory.on_worker("b", record)
        await gateway.add(light)
        for _ in range(12):
            await gateway.chat(max_tokens=1)
        counts = Counter({"light": len(light.starts), "heavy": len(heavy.starts)})
    assert counts == {"light": 3, "heavy": 9}


async def test_the_own_zone_goes_first_unless_the_model_has_no_zones() -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayUnderTest(zone="z", policy="round_robin"))
        workers = [await stack.enter_async_context(FakeWorker(f"w{i}", slots=64)) for i in range(2)]
        near = workers[0].record()
        near.zone = "z"
        gateway.directory.on_worker("w0", near)
        await gateway.add(workers[1])
        for _ in range(4):
            await gateway.chat(max_tokens=1)
        assert asked(workers) == [4, 0]
        gateway.balancer.on_route("m", Route(any_zone=True))
        for _ in range(4):
            await gateway.chat(max_tokens=1)
        assert asked(workers) == [6, 2]
