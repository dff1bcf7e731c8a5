"""etcd dies, freezes, comes back empty, or is cut off: nobody who asks for an answer notices.

The drills mostly wait, so they run at the same time, each on a mesh and an etcd of its own; each test reports one. What
is registered is read from etcd itself with etcdctl.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.systems.tcp_proxy import TcpProxy
from mesh.registry.records import WORKERS_PREFIX
from tests.e2e.answers import ask, chat
from tests.e2e.traffic import Traffic
from tests.etcd_server import EtcdServer, etcdctl_keys
from tests.harness import MODEL, Gateway, Worker, eventually

DEAD = 60.0
FROZEN = 30.0
CUT_OFF = 8.0
# "Within seconds": how long workers may take to be listed again, and news to reach the gateway.
BACK = 8.0
# Shorter than each of the outages: the leases run out.
TTL = 3
WORKER = ("--engine", "scripted", "--script-step-ms", "20", "--script-tokens", "20", "--ttl", str(TTL))

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(150)]


@dataclass
class Stage:
    """Two workers on an etcd that can be treated badly, a gateway that sees it through a proxy, and traffic."""

    etcd: EtcdServer
    proxy: TcpProxy
    gateway: Gateway
    workers: list[Worker]
    traffic: Traffic
    start: Callable[[str], Worker]

    async def hold_for(self, seconds: float) -> None:
        """Let the fault last, and see that the traffic goes on all the time and no worker is given up."""
        now = asyncio.get_running_loop().time
        end = now() + seconds
        while now() < end:
            answers = self.traffic.answers
            await asyncio.sleep(2.0)  # the fault's own duration, looked at in slices
            assert self.traffic.answers > answers, "the traffic stands still"
            self.traffic.check(at_least=1)
            assert self.live_workers() == len(self.workers)

    def live_workers(self) -> float:
        """How many workers the gateway uses."""
        return self.gateway.metric("mesh_gateway_workers", state="ready")

    async def works_again(self) -> None:
        """All are listed again within seconds, and news flow: a worker leaves, another one comes."""
        await eventually(self.all_listed, within=BACK)
        await self.replace_a_worker("new")
        await eventually(lambda: self.live_workers() == len(self.workers), within=BACK)
        await eventually(lambda: self.workers[-1].stats().streams_finished > 0, within=BACK)

    async def replace_a_worker(self, name: str) -> None:
        """Start a worker and stop another one, until etcd has both news."""
        new = self.start(name)
        await asyncio.to_thread(new.wait_ready)
        old = self.workers.pop(0)
        self.workers.append(new)
        old.terminate()
        await eventually(self.all_listed, within=BACK)

    async def all_listed(self) -> bool:
        """Whether etcd lists exactly the workers that run."""
        keys = await asyncio.to_thread(etcdctl_keys, self.etcd.url, WORKERS_PREFIX)
        assert {key.removeprefix(WORKERS_PREFIX) for key in keys} == {worker.name for worker in self.workers}
        return True


@asynccontextmanager
async def stage(folder: Path) -> AsyncGenerator[Stage]:
    """Everything, running. Nothing here may block the loop: the proxy runs on it."""
    folder.mkdir()
    async with EtcdServer(folder) as etcd, TcpProxy(etcd.port) as proxy:
        with ExitStack() as stack:

            def start(name: str) -> Worker:
                return stack.enter_context(Worker(folder, name, *WORKER, etcd=etcd.url))

            # All ask the same, and by prefix a new worker would get none of it.
            policy = ("--policy", "least_loaded")
            gateway = stack.enter_context(Gateway(folder, "gateway", *policy, etcd=proxy.url))
            workers = [start("first"), start("second")]
            for process in (gateway, *workers):
                await asyncio.to_thread(process.wait_ready)
            body = chat(MODEL)
            expected = await ask(gateway.url, body)
            async with Traffic(gateway.url, body, expected, clients=2, pause=0.5) as traffic:
                yield Stage(etcd, proxy, gateway, workers, traffic, start)
            traffic.check(at_least=10)


async def killed(stage: Stage) -> None:
    stage.etcd.kill()
    await stage.hold_for(DEAD)
    await stage.etcd.start()
    await stage.works_again()


async def killed_and_emptied(stage: Stage) -> None:
    stage.etcd.kill()
    await stage.hold_for(DEAD)
    await stage.etcd.start(empty=True)
    await stage.works_again()


async def frozen(stage: Stage) -> None:
    stage.etcd.freeze()
    await stage.hold_for(FROZEN)
    stage.etcd.thaw()
    await stage.works_again()


async def compacted_while_cut_off(stage: Stage) -> None:
    """The gateway misses news that etcd then forgets: it must list again, not go on where it was."""
    stage.proxy.blackhole()
    await stage.proxy.cut()
    await stage.hold_for(CUT_OFF)
    await stage.replace_a_worker("unseen")
    revision = json.loads(await asyncio.to_thread(stage.etcd.ctl, "get", "/", "-w", "json"))["header"]["revision"]
    await asyncio.to_thread(stage.etcd.ctl, "compact", str(revision), "--physical")
    assert stage.workers[-1].stats().streams_finished == 0
    stage.proxy.heal()
    await stage.works_again()


DRILLS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    drill.__name__: drill for drill in (killed, killed_and_emptied, frozen, compacted_while_cut_off)
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def drills(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """All drills, under way."""
    folder = tmp_path_factory.mktemp("etcd")

    async def run(name: str) -> None:
        async with stage(folder / name) as scene:
            await DRILLS[name](scene)

    tasks = {name: asyncio.create_task(run(name), name=name) for name in DRILLS}
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("name", DRILLS)
async def test_nobody_notices_that_etcd_was(drills: dict[str, asyncio.Task[None]], name: str) -> None:
    await drills[name]
