"""etcd fails while clients ask all the time; afterwards a worker starts anew, and must be found again."""

from __future__ import annotations

import asyncio
import json

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.etcd_server import EtcdServer
from benchmarks.systems.system import Inexpressible


def _etcd(stage: Stage) -> EtcdServer:
    if stage.system.etcd is None:
        raise Inexpressible("has no etcd")
    return stage.system.etcd


async def _news(stage: Stage) -> None:
    """A worker starts anew and is used."""
    await stage.system.restart_worker(0)
    await stage.system.settle()


@scenario()
async def etcd_killed(stage: Stage) -> None:
    """etcd is dead for a while, and comes back with its data. Nobody notices, and later news arrive."""
    etcd = _etcd(stage)
    async with stage.traffic():
        etcd.kill()
        await asyncio.sleep(stage.plan.outage)
        await etcd.start()
        await _news(stage)


@scenario()
async def etcd_frozen(stage: Stage) -> None:
    """etcd takes connections and answers nothing for a while. Nobody notices, and later news arrive."""
    etcd = _etcd(stage)
    async with stage.traffic():
        etcd.freeze()
        await asyncio.sleep(stage.plan.outage)
        etcd.thaw()
        await _news(stage)


@scenario()
async def etcd_emptied(stage: Stage) -> None:
    """etcd is dead for a while, and comes back without its data. Nobody notices; all workers are listed again."""
    etcd = _etcd(stage)
    async with stage.traffic():
        etcd.kill()
        await asyncio.sleep(stage.plan.outage)
        await etcd.start(empty=True)
        await _news(stage)


@scenario()
async def etcd_compacted(stage: Stage) -> None:
    """etcd forgets its history and restarts, so that no watch can go on where it was. Nobody notices."""
    etcd = _etcd(stage)
    async with stage.traffic():
        await _news(stage)
        found = json.loads(await asyncio.to_thread(etcd.ctl, "get", "/", "-w", "json"))
        await asyncio.to_thread(etcd.ctl, "compact", str(found["header"]["revision"]), "--physical")
        etcd.kill()
        await etcd.start()
        await _news(stage)
