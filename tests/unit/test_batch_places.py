"""Who gets a free place of those that batches share."""

from __future__ import annotations

import asyncio

from gateway.batches.places import Places
from tests.harness import eventually

HEAVY = [("heavy", "1")] * 8 + [("heavy", "2")] * 4
LIGHT = [("light", "3")] * 3


class Holders:
    """Tasks that each hold a place until they are told to end."""

    def __init__(self, count: int) -> None:
        self.places = Places(count)
        self.given: list[tuple[str, str]] = []
        self.ends: list[asyncio.Event] = []

    async def hold(self, tenant: str, batch: str) -> None:
        async with self.places.one(tenant, batch):
            self.given.append((tenant, batch))
            self.ends.append(end := asyncio.Event())
            await end.wait()

    async def have(self, count: int) -> None:
        """Wait until so many in all have had a place."""
        await eventually(lambda: len(self.given) >= count)


async def test_a_free_place_goes_to_who_holds_the_fewest() -> None:
    holders = Holders(4)
    tasks = [asyncio.create_task(holders.hold(*each)) for each in HEAVY + LIGHT]
    for turn in range(5):
        await holders.have(4 + turn)
        holders.ends[turn].set()
    await holders.have(9)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    one, two, light = ("heavy", "1"), ("heavy", "2"), ("light", "3")
    assert holders.given == [one, one, one, one, light, light, two, one, light]


async def test_who_gives_up_takes_no_place_with_it() -> None:
    holders = Holders(2)
    tasks = [asyncio.create_task(holders.hold("t", str(number))) for number in range(4)]
    await holders.have(2)
    tasks[2].cancel()  # while it waits
    holders.ends[0].set()
    tasks[3].cancel()  # in the moment that it is given one, or before
    await asyncio.wait([tasks[0], tasks[2], tasks[3]])
    holders.ends[1].set()
    await tasks[1]
    more = [asyncio.create_task(holders.hold("t", "new")) for _ in range(2)]
    await holders.have(4)
    for task in more:
        task.cancel()
    await asyncio.wait(more)
