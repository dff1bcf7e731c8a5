"""Thousands of short lives of a gateway in virtual time: whatever happens to workers and clients, the rules hold.

Each token arrives once and in order, nothing gets stuck, and in the end every count is back at zero. Where no fault is
one that a request cannot survive, every answer is complete. A seed that fails prints what happened; run it alone with
`pytest tests/unit/test_gateway_simulation.py -k 'seeds and 17'`, or call `calm(17)` or `wild(17)` here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.routing.queue import QueueLimits
from tests.unit.simulation.worker import Worker
from tests.unit.simulation.world import Broken, Client, World, simulate

BLOCKS = 20
SEEDS_PER_BLOCK = 100
_AMPLE = QueueLimits(length=100, timeout=60.0, ahead=2, patience=5.0)
_TIGHT = QueueLimits(length=4, timeout=3.0, ahead=1, patience=1.0)
_KILLING = ("kill", "freeze", "stall", "drain", "reset")
_ODD = ("refuse", "fail", "vanish", "join")
# What a wild life may end with.
_ENDS = frozenset(
    {"complete", "left", "overloaded", "no_worker", "worker_lost", "engine_failed", "deadline_exceeded", "draining"}
)


async def happen(world: World, kind: str, at: float, victim: str) -> None:
    """One fault."""
    await asyncio.sleep(at)
    worker = world.workers[victim]
    seconds = world.chance.choice((0.1, 1.0, 3.0))
    world.note(f"{kind} of {victim} for {seconds} s")
    match kind:
        case "kill":
            worker.kill()
            await asyncio.sleep(seconds)
            reborn(world, worker)
        case "freeze":
            worker.frozen = True
            await asyncio.sleep(seconds)
            worker.frozen = False
        case "stall":
            worker.stalled = True
            await asyncio.sleep(seconds)
            worker.stalled = False
        case "drain":
            await drain(world, worker, seconds)
        case "reset":
            worker.reset()
        case "refuse":
            worker.refusals += 3
        case "fail":
            worker.failures += 2
        case "vanish":
            world.vanish(worker)
            await asyncio.sleep(seconds)
            world.tell(worker)
        case _:
            world.join(f"new{at:.3f}", slots=worker.slots)


async def drain(world: World, worker: Worker, seconds: float) -> None:
    """A rolling restart."""
    worker.drain()
    world.tell(worker)
    await asyncio.sleep(seconds)
    worker.kill()
    world.vanish(worker)
    await asyncio.sleep(seconds)
    reborn(world, worker)


def reborn(world: World, worker: Worker) -> None:
    """The next incarnation, unless another fault has brought one already."""
    if world.workers[worker.worker_id] is worker:
        world.join(worker.worker_id, slots=worker.slots, queue=worker.max_waiting, step=worker.step_seconds)


def clients(world: World, *, calm: bool) -> list[Client]:
    """Some, of all kinds."""
    chance = world.chance
    found: list[Client] = []
    for index in range(chance.randint(3, 10)):
        client = Client(
            f"c{index}",
            seed=chance.randrange(1000),
            choices=chance.choice((1, 1, 1, 2)),
            length=chance.randint(1, 25),
            arrives=chance.uniform(0.0, 1.5),
            tenant=chance.choice("abc"),
            priority=chance.choice((0, 0, 0, -5, 5)),
            streamed=chance.random() < 0.7,
        )
        if client.streamed and chance.random() < 0.3:
            client.pause = chance.choice((0.01, 0.1))
        if chance.random() < 0.15:
            client.leaves_after = chance.randint(0, client.length)
        if not calm and chance.random() < 0.3:
            client.deadline = chance.choice((0.01, 0.3, 2.0))
        found.append(client)
    return found


async def life(world: World, *, calm: bool) -> None:
    """Workers, clients and faults. In a calm life one worker is never harmed, and the faults are few."""
    chance = world.chance
    names = [f"w{index}" for index in range(chance.randint(1, 3))]
    slots = chance.choice((1, 2, 4))
    for name in names:
        world.join(name, slots=slots, queue=chance.choice((1, 2, 8)), step=chance.choice((0.01, 0.03)))
    if calm:
        world.join("steady", slots=slots, queue=8)
    kinds = [*_KILLING, "vanish", "join"] if calm else [*_KILLING, *_ODD]
    faults = [
        (chance.choice(kinds), chance.uniform(0.0, 2.5), chance.choice(names)) for _ in range(chance.randint(0, 4))
    ]
    asking = clients(world, calm=calm)
    acts: list[Coroutine[Any, Any, None]] = [happen(world, *fault) for fault in faults]
    await world.live([*acts, *map(world.serve, asking)], within=120.0)
    for client in asking:
        allowed = {"complete", "left"} if calm else _ENDS
        if client.outcome not in allowed or (client.outcome == "deadline_exceeded" and client.deadline is None):
            raise Broken(f"{client.name} ended with {client.outcome}")
        _outcomes[client.outcome] += 1


_outcomes: Counter[str] = Counter()


def calm(seed: int) -> World:
    """One calm life."""
    return simulate(seed, _AMPLE, lambda world: life(world, calm=True))


def wild(seed: int) -> World:
    """One wild life."""
    return simulate(seed, _TIGHT, lambda world: life(world, calm=False))


@pytest.mark.parametrize("block", range(BLOCKS))
def test_seeds(block: int) -> None:
    for seed in range(block * SEEDS_PER_BLOCK, (block + 1) * SEEDS_PER_BLOCK):
        (calm if seed % 2 else wild)(seed)


def test_a_seed_is_a_life() -> None:
    assert wild(4).trace == wild(4).trace != wild(6).trace
