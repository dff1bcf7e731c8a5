"""Workers come and go under traffic, and no client notices."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e.answers import ask, chat
from tests.e2e.rawhttp import opened, post
from tests.e2e.traffic import Traffic
from tests.harness import Mesh, Worker, eventually

ARGS = ("--engine", "scripted", "--script-step-ms", "10", "--script-tokens", "30")
SLOW = ("--engine", "scripted", "--script-step-ms", "50", "--script-tokens", "100")
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
        await eventually(lambda: mesh.gateway.metric("mesh_gateway_queue_requests") == 6)
        answered = traffic.answers
        await eventually(lambda: time.monotonic() - gone > GAP, within=GAP + 1)
        assert traffic.answers == answered, "answered by nobody"
        await joined(mesh, mesh.start_worker(name="late"))
        await eventually(lambda: traffic.answers > answered + 12, within=20)
    traffic.check(at_least=12)
    assert traffic.slowest > GAP
    assert mesh.gateway.metric("mesh_gateway_queue_requests") == 0


async def joined(mesh: Mesh, worker: Worker) -> None:
    """Wait until the registry lists the worker, without holding up the clients of this loop."""
    await asyncio.to_thread(worker.wait_ready)
    await eventually(lambda: asyncio.to_thread(lambda: worker.name in mesh.registered()), within=10)


async def test_without_any_hope_a_request_ends_with_a_clear_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In time: a new one with 503 and when to come back, one that has begun with an error event and no [DONE]."""
    folder = tmp_path_factory.mktemp("hopeless")
    with Mesh(folder, workers=1, worker_args=SLOW, gateway_args=("--queue-timeout", "0.5")) as mesh:
        async with opened(mesh.gateway.url, chat(mesh.model)) as begun:
            assert await begun.read_head() == 200
            events = begun.events()
            await anext(events)
            mesh.workers[0].kill()
            rest = [data async for data in events]
        assert json.loads(rest[-1])["error"]["code"] in ("no_worker", "worker_lost")
        assert not any("finish_reason" in data and '"finish_reason":null' not in data for data in rest)
        refused = await post(mesh.gateway.url, chat(mesh.model))
        assert (refused.status, refused.error()["code"]) == (503, "no_worker")
        assert int(refused.headers["retry-after"]) >= 1
