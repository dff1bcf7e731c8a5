"""Workers come and go under traffic, and no client notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.e2e.answers import ask, chat
from tests.e2e.traffic import Traffic
from tests.harness import Mesh, Worker, eventually

ARGS = ("--engine", "scripted", "--script-step-ms", "10", "--script-tokens", "30")
# For how long there is no worker at all.
GAP = 3.0


@pytest.fixture
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("restart"), workers=2, worker_args=ARGS) as mesh:
        yield mesh


async def test_both_workers_are_replaced_under_traffic(mesh: Mesh) -> None:
    body = chat(mesh.model)
    expected = await ask(mesh.gateway.url, body)
    async with Traffic(mesh.gateway.url, body, expected, clients=6) as traffic:
        for old in list(mesh.workers):
            await joined(mesh, mesh.start_worker(name=f"{old.name}-new"))
            answers = traffic.answers
            old.terminate()
            assert await asyncio.to_thread(old.wait_exit) == 0
            await eventually(lambda then=answers: traffic.answers > then + 12, within=20)
    traffic.check(at_least=24)
    assert sorted(await asyncio.to_thread(mesh.registered)) == ["worker-0-new", "worker-1-new"]


async def test_without_a_worker_requests_are_held_and_then_served(mesh: Mesh) -> None:
    body = chat(mesh.model)
    expected = await ask(mesh.gateway.url, body)
    async with Traffic(mesh.gateway.url, body, expected, clients=6) as traffic:
        for worker in list(mesh.workers):
            worker.kill()
        gone = time.monotonic()
        await eventually(lambda: mesh.gateway.metric("mesh_gateway_held_requests") == 6)
        answered = traffic.answers
        await eventually(lambda: time.monotonic() - gone > GAP, within=GAP + 1)
        assert traffic.answers == answered, "answered by nobody"
        await joined(mesh, mesh.start_worker(name="late"))
        await eventually(lambda: traffic.answers > answered + 12, within=20)
    traffic.check(at_least=12)
    assert traffic.slowest > GAP
    assert mesh.gateway.metric("mesh_gateway_held_requests") == 0


async def joined(mesh: Mesh, worker: Worker) -> None:
    """Wait until the registry lists the worker, without holding up the clients of this loop."""
    await asyncio.to_thread(worker.wait_ready)
    await eventually(lambda: asyncio.to_thread(lambda: worker.name in mesh.registered()), within=10)
