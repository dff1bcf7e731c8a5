"""A worker of two processes: whichever of them dies takes the other with it, and clients do not notice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.e2e.answers import Answer, Body, ask, chat
from tests.e2e.faults import GATEWAY
from tests.e2e.tiny_mesh import MODEL, tiny_args, tiny_mesh
from tests.harness import Mesh, Process, eventually

RANKS = ("--device", "cpu", "--tensor-parallel-size", "2", "--zone", "front")
TOKENS = 200
LONG: Body = chat(MODEL, "Tell me a story.", max_tokens=TOKENS, ignore_eos=True)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One worker of one process, in another zone than the gateway's."""
    with tiny_mesh(tmp_path_factory.mktemp("ranks"), *GATEWAY, worker_args=("--zone", "back")) as mesh:
        yield mesh


def by_itself(mesh: Mesh) -> Process:
    return mesh.start_worker(*RANKS, name="ranks")


def by_torchrun(mesh: Mesh) -> Process:
    worker = ("-m", "mesh.worker", "--port", "0", "--worker-id", "torchrun", "--etcd", mesh.gateway.etcd, "--ttl", "5")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return Process(mesh.folder, "torchrun", [*torchrun, *worker, *tiny_args("--device", "cpu", "--zone", "front")])


@pytest.mark.parametrize(("start", "rank"), [(by_itself, 0), (by_torchrun, 1)])
@pytest.mark.slow
async def test_the_end_of_a_rank_ends_the_worker_and_no_answer(
    mesh: Mesh, start: Callable[[Mesh], Process], rank: int
) -> None:
    undisturbed = await ask(mesh.gateway.url, LONG)
    with await asyncio.to_thread(start, mesh) as worker:
        await asyncio.to_thread(worker.wait_for_record, "worker is ready", 60)
        await strike_and_compare(mesh, worker, rank, undisturbed)


async def strike_and_compare(mesh: Mesh, worker: Process, rank: int, undisturbed: Answer) -> None:
    """Kill a rank in the middle of an answer."""
    (pid,) = worker.wait_for_record("all ranks are there")["pids"]
    await eventually(lambda: mesh.gateway.metric("mesh_gateway_workers", state="ready") == 2, within=15)

    before = mesh.gateway.metric("mesh_gateway_attempts_total")

    async def strike(tokens: int) -> None:
        if tokens == 20:
            os.kill(pid if rank else worker.pid, signal.SIGKILL)

    answer = await ask(mesh.gateway.url, LONG, strike)
    assert answer.seen == undisturbed.seen
    assert mesh.gateway.metric("mesh_gateway_attempts_total") == before + 2
    code = await asyncio.to_thread(worker.wait_exit, 20)
    await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    said = [record["message"] for record in worker.records()]
    if rank:
        assert code == 1
        assert any(message.startswith("the engine has broken down: rank 1 has ended") for message in said)
    else:
        assert any(record["message"] == "rank 0 has ended" and record["rank"] == 1 for record in worker.records())
    await eventually(lambda: mesh.gateway.metric("mesh_gateway_workers", state="ready") == 1, within=15)
