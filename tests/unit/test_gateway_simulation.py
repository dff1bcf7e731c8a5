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

from gateway.routing.hedge import Hedge
from gateway.routing.queue import QueueLimits
from tests.unit.simulation.worker import Worker
from tests.unit.simulation.world import HEDGE_SHARE, Broken, Client, World, simulate

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
    world.hedge_after(chance.choice((0.0, 0.03, 0.3)))
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
    made = sum(client.hedge in (Hedge.WON, Hedge.LOST) for client in asking)
    if made > 1 + HEDGE_SHARE * len(asking):
        raise Broken(f"{made} of {len(asking)} requests were given to two workers")


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


# Under load: one worker of four slots, far more requests than it can serve.


async def under_load(world: World, asking: list[Client]) -> None:
    world.join("w", slots=4)
    await world.live([world.serve(client) for client in asking], within=300.0)


def served_by(asking: list[Client], until: float) -> Counter[str]:
    """Tokens of the requests that had begun within so many seconds, by tenant."""
    found: Counter[str] = Counter()
    for client in asking:
        if client.outcome == "complete" and client.arrives + client.waited <= until:
            found[client.tenant] += client.total
    return found


def test_two_tenants_at_ten_to_one() -> None:
    # In 10 s a worker with four slots and steps of 20 ms serves 2,000 tokens: each tenant asks for more than its half.
    asking = [Client(f"greedy{i}", i, 1, 20, i * 0.01, tenant="greedy") for i in range(1000)]
    asking += [Client(f"modest{i}", i, 1, 20, i * 0.1, tenant="modest") for i in range(100)]
    limits = QueueLimits(length=2000, timeout=10.0, ahead=2, patience=5.0)
    simulate(1, limits, lambda world: under_load(world, asking))
    shares = served_by(asking, 10.0)
    jain = sum(shares.values()) ** 2 / (2 * sum(share * share for share in shares.values()))
    assert sum(shares.values()) > 1500, shares
    assert jain > 0.95, shares
    assert {client.outcome for client in asking} == {"complete", "overloaded"}


def test_the_wait_of_every_class_is_bounded() -> None:
    """A flood of urgent requests, and a few patient ones beside it; then the other way around."""
    limits = QueueLimits(length=2000, timeout=60.0, ahead=1, patience=1.0)
    urgent = [Client(f"urgent{i}", i, 1, 20, i * 0.05, priority=-5) for i in range(200)]
    patient = [Client(f"patient{i}", i, 1, 20, i * 1.0, priority=5) for i in range(5)]
    simulate(1, limits, lambda world: under_load(world, urgent + patient))
    assert {client.outcome for client in urgent + patient} == {"complete"}
    assert max(client.waited for client in patient) < 3.0
    few = [Client(f"urgent{i}", i, 1, 20, 1.0 + i, priority=-5) for i in range(5)]
    many = [Client(f"patient{i}", i, 1, 20, i * 0.05, priority=5) for i in range(200)]
    simulate(1, limits, lambda world: under_load(world, few + many))
    assert max(client.waited for client in few) < 0.7  # an answer ends every 0.1 s, a row may wait on the worker


def test_a_deadline_that_cannot_be_kept_is_refused_at_once() -> None:
    asking = [Client(f"c{i}", i, 1, 20, i * 0.01) for i in range(100)]
    late = Client("late", 7, 1, 20, 3.0, deadline=1.0)
    soon = Client("soon", 7, 1, 20, 3.0, deadline=30.0)
    limits = QueueLimits(length=2000, timeout=60.0, ahead=2, patience=5.0)
    world = simulate(1, limits, lambda world: under_load(world, [*asking, late, soon]))
    assert (late.outcome, soon.outcome) == ("overloaded", "complete")
    refusals = [line for line in world.trace if "late: the deadline is in 1.00 s, and behind" in line]
    assert [line.split()[0] for line in refusals] == ["3.000"]


def test_gateways_that_know_nothing_of_each_other_share_a_worker() -> None:
    """A worker refuses what its load did not show; such a request keeps its place and loses no attempt."""

    async def life(world: World) -> None:
        worker = world.join("w", slots=2, queue=2)
        await world.live([strangers(worker), *map(world.serve, asking)], within=300.0)

    async def strangers(worker: Worker) -> None:
        for _ in range(20):
            await asyncio.sleep(0.15)
            worker.max_waiting = 0
            await asyncio.sleep(0.15)
            worker.max_waiting = 2

    asking = [Client(f"c{i}", i, 1, 10, i * 0.02) for i in range(60)]
    simulate(1, _AMPLE, life)
    assert {client.outcome for client in asking} == {"complete"}
    begun = [client.name for client in sorted(asking, key=lambda client: client.arrives + client.waited)]
    places = {name: place for place, name in enumerate(begun)}
    assert max(abs(places[f"c{i}"] - i) for i in range(60)) <= 3
