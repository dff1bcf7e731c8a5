"""The process of a worker ends, stops or leaves in the middle of an answer."""

from __future__ import annotations

import asyncio

from benchmarks.faults.stage import Stage, scenario

_AT_ONCE = 6


@scenario()
async def worker_killed(stage: Stage) -> None:
    """The worker gets SIGKILL after the k-th token. The user sees the whole answer, as if nothing had happened."""
    for after in stage.plan.moments:
        await stage.struck(after, lambda place: asyncio.to_thread(stage.system.workers[place].kill))
        await stage.system.renew()


@scenario()
async def worker_frozen(stage: Stage) -> None:
    """The worker gets SIGSTOP after the k-th token, and goes on after the answer. The user sees the whole answer, later
    by the time that it takes to tell a frozen worker from a slow one."""
    for after in stage.plan.moments:
        frozen: list[int] = []

        def freeze(place: int, frozen: list[int] = frozen) -> None:
            frozen.append(place)
            stage.system.workers[place].freeze()

        await stage.struck(after, freeze)
        for place in frozen:
            stage.system.workers[place].thaw()
        await stage.system.renew()


@scenario()
async def worker_drained(stage: Stage) -> None:
    """The worker gets SIGTERM after the k-th token, as in a rolling update. The user sees the whole answer."""
    for after in stage.plan.moments:
        await stage.struck(after, lambda place: stage.system.workers[place].terminate())
        await stage.system.restart_workers()


@scenario()
async def worker_gone(stage: Stage) -> None:
    """A worker was killed a moment ago, is still listed, and refuses connections. The user does not notice."""
    await asyncio.to_thread(stage.system.workers[0].kill)
    for answer in await asyncio.gather(*(stage.ask() for _ in range(_AT_ONCE))):
        stage.take(answer)
