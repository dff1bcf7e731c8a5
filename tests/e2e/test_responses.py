"""Responses on a mesh whose workers and gateways die: the client sees the events that it would have seen."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.faults import FAULTS, Fault, Scene, Strike, scene_args
from tests.e2e.rawhttp import fetch, opened
from tests.harness import MODEL, Gateway, Worker, eventually

RESPONSES = "/v1/responses"
WORKER = ("--engine", "scripted", "--script-step-ms", "20", "--script-tokens", "20")
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"seed": 11, "temperature": 1},
    "log probabilities": {"seed": 12, "temperature": 1, "top_logprobs": 2},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_args(tmp_path_factory.mktemp("responses"), WORKER, MODEL) as mesh:
        yield Scene.build(mesh)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "Hello", "stream": True, "store": False, **fields}


async def events(url: str, asked: dict[str, Any], strike: Strike | None = None, k: int = 0) -> list[str]:
    """The events of a stream, without what names the response; the fault strikes at the k-th piece of text."""
    found: list[str] = []
    async with opened(url, asked, path=RESPONSES) as connection:
        assert await connection.read_head() == 200
        async for data in connection.events():
            found.append(nameless(data))
            count = sum("output_text.delta" in event for event in found)
            if strike is not None and count >= k:
                strike.at_once()
                strike.token()
    return found


def nameless(data: str) -> str:
    """An event without ids, times, and the facts of prefix caches."""
    return re.sub(r'(resp|msg)_[0-9a-f]+|"(created|completed)_at":\d+|"cached_tokens":\d+', "", data)


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("fault", FAULTS)
async def test_events_are_identical(scene: Scene, fault: Fault, k: int) -> None:
    await scene.ready()
    expected = {name: await events(scene.url, body(**case)) for name, case in CASES.items()}
    assert sum("output_text.delta" in event for event in expected["greedy"]) == 20
    attempts = scene.attempts()
    strike = Strike(scene, fault, moves=len(CASES))
    async with asyncio.TaskGroup() as group:
        tasks = {
            name: group.create_task(events(scene.url, body(**case), strike if name == "greedy" else None, k))
            for name, case in CASES.items()
        }
    await strike.over()
    assert {name: task.result() for name, task in tasks.items()} == expected
    assert scene.attempts() - attempts > len(CASES)


async def test_a_response_in_the_background_outlives_its_gateway(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    slow = ("--engine", "scripted", "--script-step-ms", "100", "--script-tokens", "20")
    asked = body(seed=5, stream=False, store=True, background=True)
    with (
        Gateway(tmp_path, "survivor", "--store", str(store)) as survivor,
        Gateway(tmp_path, "victim", "--store", str(store), etcd=survivor.wait_ready().etcd) as victim,
        Worker(tmp_path, "worker", *slow, etcd=survivor.etcd) as worker,
    ):
        victim.wait_ready()
        worker.wait_ready()
        await eventually(lambda: MODEL in victim.models() & survivor.models(), within=20)
        response = (await fetch(victim.url, "POST", RESPONSES, asked)).json()
        await eventually(lambda: "output_text.delta" in told(store), within=20)
        victim.kill()
        before = told(store)
        done = await eventually(lambda: ended(survivor, response["id"]), within=40)
        plain = (await fetch(survivor.url, "POST", RESPONSES, {**asked, "background": False})).json()
    assert (done["status"], text(done)) == ("completed", text(plain))
    assert told(store).startswith(before)
    found = [json.loads(event.partition("data: ")[2]) for event in told(store).split("\n\n")[:-1]]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert "".join(event.get("delta", "") for event in found) == text(done)


def told(store: Path) -> str:
    """The events that are written, by the file itself."""
    with closing(sqlite3.connect(store)) as file:
        rows = file.execute("SELECT data FROM events ORDER BY sequence").fetchall()
    return b"".join(data for (data,) in rows).decode()


def ended(gateway: Gateway, response_id: str) -> Any:
    """A response, once it has ended."""
    answer = gateway.get(f"{RESPONSES}/{response_id}").json()
    return answer if answer["status"] not in ("queued", "in_progress") else None


def text(response: Any) -> str:
    """All that it says."""
    return "".join(part["text"] for item in response["output"] for part in item["content"])
