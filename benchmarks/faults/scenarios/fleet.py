"""One worker of several is slow, comes and goes, or is killed by what it is asked."""

from __future__ import annotations

import asyncio

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.system import Pace, Setup
from benchmarks.systems.workers.scripted import POISON

_CLIENTS, _ROUNDS = 6, 4
_FLAPS = 4


@scenario(lambda: Setup(workers=(Pace(step=0.2), Pace(), Pace())))
async def slow_worker(stage: Stage) -> None:
    """One of three workers takes ten times as long. All answers are whole; the fewer come from it the better."""

    async def client() -> None:
        for _ in range(_ROUNDS):
            stage.take(await stage.ask())

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))


@scenario()
async def worker_flapping(stage: Stage) -> None:
    """One of two workers is killed and started again and again. Nobody notices."""
    async with stage.traffic():
        for _ in range(_FLAPS):
            await stage.system.restart_worker(0)
            await asyncio.sleep(1.0)


@scenario(lambda: Setup(workers=(Pace(), Pace(), Pace()), between="faults"))
async def poisoned_request(stage: Stage) -> None:
    """A request kills each worker that begins to answer it; a supervisor starts workers again. It gets an error before
    it has killed the fleet, and nobody else notices."""
    stop = asyncio.Event()
    killed = 0

    async def supervise() -> None:
        nonlocal killed
        while not stop.is_set():
            for place, worker in enumerate(stage.system.workers):
                if not worker.running:
                    killed += 1
                    await stage.system.restart_worker(place)
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        group.create_task(supervise())
        try:
            async with stage.traffic():
                answer = await stage.ask(temperature=POISON)
                await asyncio.sleep(1.0)
        finally:
            stop.set()
    stage.outcome.notes.append(f"killed {killed} workers, {answer.error or 'and was answered'}")
