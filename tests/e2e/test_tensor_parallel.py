"""A worker of two processes: whichever of them dies takes the other with it, and clients do not notice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.answers import Body, ask, chat
from tests.e2e.faults import GATEWAY
from tests.e2e.tiny_mesh import MODEL, tiny_mesh
from tests.harness import Mesh, Worker, eventually

RANKS = ("--device", "cpu", "--tensor-parallel-size", "2", "--zone", "front")
TOKENS = 200
LONG: Body = chat(MODEL, "Tell me a story.", max_tokens=TOKENS, ignore_eos=True)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One worker of one process, in another zone than the gateway's."""
    with tiny_mesh(tmp_path_factory.mktemp("ranks"), *GATEWAY, worker_args=("--zone", "back")) as mesh:
        yield mesh


def follower(worker: Worker) -> int:
    """The process id of rank 1."""
    (pid,) = worker.wait_for_record("all ranks are there", 60)["pids"]
    return pid


@pytest.mark.parametrize("rank", [0, 1])
async def test_the_end_of_a_rank_ends_the_worker_and_no_answer(mesh: Mesh, rank: int) -> None:
    undisturbed = await ask(mesh.gateway.url, LONG)
    worker = await asyncio.to_thread(mesh.start_worker, *RANKS, name=f"ranks-{rank}")
    await asyncio.to_thread(worker.wait_ready, 60)
    pid = follower(worker)
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
        assert "the engine has broken down: rank 1 has ended by signal 9" in said
    else:
        assert {"rank": 1, "message": "rank 0 has ended"}.items() <= worker.records()[-1].items()
