"""A first token that is late comes from a second worker, seldom enough; in the virtual time of the simulation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.routing.hedge import Hedge
from gateway.routing.queue import QueueLimits
from tests.unit.simulation.worker import Worker
from tests.unit.simulation.world import HEDGE_SHARE, Client, World, simulate

LIMITS = QueueLimits(length=1000, timeout=60.0, ahead=2, patience=5.0)
AFTER = 0.2
LENGTH = 20


def live(
    asking: list[Client],
    fault: Callable[[World, Worker], Coroutine[Any, Any, None]],
    *,
    after: float = AFTER,
    second_slots: int | None = 4,
) -> None:
    """These ask a worker that is there alone at first; another one joins after 0.1 s, unless it has no slots. The fault
    is that of the first worker."""

    async def life(world: World) -> None:
        world.hedge_after(after)
        first = world.join("first", slots=100, queue=100)
        acts = [fault(world, first), *(world.serve(client) for client in asking)]
        if second_slots is not None:
            acts.append(second(world))
        await world.live(acts, within=120.0)

    async def second(world: World) -> None:
        await asyncio.sleep(0.1)
        world.join("second", slots=second_slots or 0, queue=100)

    simulate(1, LIMITS, life)


def a_client(**more: Any) -> Client:
    return Client("c", 7, 1, LENGTH, 0.05, **more)


def stalled_for(seconds: float, *, then_dead: bool = False) -> Callable[[World, Worker], Coroutine[Any, Any, None]]:
    """It makes no steps from the beginning."""

    async def fault(_: World, worker: Worker) -> None:
        worker.stalled = True
        await asyncio.sleep(seconds)
        worker.stalled = False
        if then_dead:
            worker.kill()

    return fault


def test_the_second_one_answers() -> None:
    client = a_client()
    live([client], stalled_for(10.0))
    assert (client.outcome, client.hedge, client.attempts) == ("complete", Hedge.WON, 2)
    assert AFTER < client.waited < AFTER + 0.1


def test_the_first_one_may_still_be_faster() -> None:
    client = a_client()
    live([client], stalled_for(0.05 + AFTER + 0.01))
    assert (client.outcome, client.hedge, client.attempts) == ("complete", Hedge.LOST, 2)


def test_no_second_one_is_asked_in_time() -> None:
    client = a_client()
    live([client], stalled_for(0.05 + AFTER / 2))
    assert (client.outcome, client.hedge, client.attempts) == ("complete", None, 1)


def test_nor_without_a_limit() -> None:
    client = a_client()
    live([client], stalled_for(0.5), after=0.0)
    assert (client.outcome, client.hedge, client.attempts) == ("complete", None, 1)


def test_nor_where_there_is_none() -> None:
    client = a_client()
    live([client], stalled_for(0.5), second_slots=None)
    assert (client.outcome, client.hedge, client.attempts) == ("complete", Hedge.NO_PLACE, 1)


def test_the_first_one_dies_while_both_are_at_it() -> None:
    """The second one is not asked again."""
    client = a_client()
    live([client], stalled_for(0.05 + AFTER + 0.005, then_dead=True))
    assert (client.outcome, client.hedge, client.attempts) == ("complete", Hedge.WON, 2)


def test_the_second_one_dies_while_both_are_at_it() -> None:
    client = a_client()

    async def fault(world: World, worker: Worker) -> None:
        worker.stalled = True
        await asyncio.sleep(0.15)
        world.workers["second"].stalled = True
        await asyncio.sleep(0.15)
        world.workers["second"].kill()
        world.vanish(world.workers["second"])
        worker.stalled = False

    live([client], fault)
    assert (client.outcome, client.hedge, client.attempts) == ("complete", Hedge.LOST, 2)


def test_one_whose_client_leaves_is_gone_from_both() -> None:
    """What is left somewhere would be found by the simulation."""
    client = a_client(deadline=AFTER + 0.01)
    live([client], stalled_for(1.0))
    assert (client.outcome, client.hedge, client.attempts) == ("deadline_exceeded", Hedge.LOST, 2)


def test_there_are_few_however_slow_a_worker_is() -> None:
    asking = [Client(f"c{i}", i, 1, LENGTH, 0.05) for i in range(20)]
    live(asking, stalled_for(0.5), second_slots=100)
    assert {client.outcome for client in asking} == {"complete"}
    found = Counter(client.hedge for client in asking)
    assert found == {Hedge.WON: 1 + HEDGE_SHARE * len(asking), Hedge.OVER_BUDGET: 14}
