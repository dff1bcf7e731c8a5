"""The network between gateway and workers fails."""

from __future__ import annotations

import asyncio

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.system import Setup


@scenario(lambda: Setup(between="tcp"))
async def connection_reset(stage: Stage) -> None:
    """A box in between ends the worker's connections after the k-th token. The user sees the whole answer."""
    for after in stage.plan.moments:
        await stage.struck(after, lambda place: stage.system.proxies[place].cut())
        await stage.system.settle()


@scenario(lambda: Setup(between="tcp"))
async def network_silent(stage: Stage) -> None:
    """Nothing passes between gateway and worker any more, and no connection ends. The user sees the whole answer, later
    by the time that it takes to notice."""
    for after in stage.plan.moments:
        await stage.struck(after, lambda place: stage.system.proxies[place].blackhole())
        for proxy in stage.system.proxies:
            proxy.heal()
            await proxy.cut()
        await asyncio.sleep(0)
        await stage.system.settle()
