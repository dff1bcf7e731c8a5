"""Clients that hang up: their rows stop at once, and nothing of them stays behind anywhere."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.answers import Body, ask, chat
from tests.e2e.rawhttp import CHAT, Connection, encode, get
from tests.e2e.tiny_mesh import tiny_mesh
from tests.harness import MODEL, Mesh, Worker, eventually, read_metric

SCRIPTED = ("--engine", "scripted", "--script-step-ms", "40", "--script-tokens", "1000")

AT_ONCE = 32


@pytest.fixture(scope="module", params=["scripted", "tiny"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One worker: the scripted engine with a step every 40 ms, or a real model at its own pace."""
    folder = tmp_path_factory.mktemp("hang-up")
    if request.param == "tiny":
        # Room for 32 long answers.
        with tiny_mesh(folder, worker_args=("--kv-cache-tokens", "32768")) as mesh:
            yield mesh
    else:
        with Mesh(folder, workers=1, worker_args=SCRIPTED) as mesh:
            yield mesh


def long_answer(mesh: Mesh) -> Body:
    """A request whose answer is much longer than anybody waits for."""
    return chat(mesh.model, max_tokens=900, ignore_eos=True)


@pytest.mark.parametrize("mesh", ["scripted"], indirect=True)  # a real model makes two steps while bytes travel
async def test_the_row_is_gone_within_two_steps(mesh: Mesh) -> None:
    worker = mesh.workers[0]
    before = worker.stats().engine["output_tokens"]
    read = 0
    async with Connection(mesh.gateway.url) as connection:
        await connection.send("POST", CHAT, encode(long_answer(mesh)))
        assert await connection.read_head() == 200
        async for data in connection.events():
            read += bool(json.loads(data)["choices"][0]["delta"].get("content"))
            if read == 10:
                connection.hang_up()
                break
    await eventually(lambda: is_empty(worker))
    produced = worker.stats().engine["output_tokens"] - before
    # One token may have been under way to the client when it closed; two steps may run until the engine hears of it.
    assert read <= produced <= read + 3


async def test_random_hang_ups_leave_nothing_behind(mesh: Mesh) -> None:
    worker = mesh.workers[0]
    gateway = psutil.Process(mesh.gateway.pid)
    served = psutil.Process(worker.pid)
    reference = await ask(mesh.gateway.url, chat(mesh.model, max_tokens=5))
    await eventually(lambda: is_quiet(mesh))
    cancelled = worker.stats().streams_cancelled
    before = gateway.num_fds(), gateway.num_threads(), served.num_fds(), served.num_threads()
    count = 500 if mesh.model == MODEL else 60
    await hang_up_often(mesh.gateway.url, long_answer(mesh), count)
    await eventually(lambda: is_quiet(mesh))
    after = gateway.num_fds(), gateway.num_threads(), served.num_fds(), served.num_threads()
    assert all(now <= then + 2 for then, now in zip(before, after, strict=True)), (before, after)
    assert worker.stats().streams_cancelled - cancelled > count / 4, "hardly a stream was interrupted"
    # And both still do their work.
    assert (await ask(mesh.gateway.url, chat(mesh.model, max_tokens=5))).seen == reference.seen


async def hang_up_often(url: str, body: Body, count: int) -> None:
    """Hang up `count` times at random moments, at most 32 at once."""
    random_ = random.Random(20)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> None:
        async with room:
            await hang_up_once(url, body, random.Random(seed))

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one(random_.getrandbits(64)))


async def hang_up_once(url: str, body: Body, random_: random.Random) -> None:
    """Send a request, or a part of one, and close the socket at a random moment of the answer."""
    moment = random_.choice(("within the body", "before the headers", "in the prefill", "in the stream"))
    stream = random_.random() < 0.8
    body = body | {"stream": True} if stream else {k: v for k, v in body.items() if not k.startswith("stream")}
    data = encode(body)
    async with Connection(url) as connection:
        if moment == "within the body":
            await connection.send_head("POST", CHAT, {"content-length": str(len(data) + 1)})
        else:
            await connection.send("POST", CHAT, data)
        if moment == "in the prefill":
            await asyncio.sleep(random_.uniform(0, 0.1))  # the random moment itself
        elif moment == "in the stream" and stream:
            assert await connection.read_head() == 200
            await read_some(connection, random_.randrange(30))
        connection.hang_up(reset=random_.random() < 0.5)


async def read_some(connection: Connection, events: int) -> None:
    """Read so many events."""
    async for _ in connection.events():
        events -= 1
        if events < 0:
            return


def is_empty(worker: Worker) -> bool:
    """No stream, no row, no page in use."""
    stats = worker.stats()
    load = stats.load
    rows = load.running + load.waiting + load.paused
    assert (stats.live_streams, rows, load.kv_used) == (0, 0, 0), stats
    assert stats.engine.get("kv_pages_used", 0) == stats.engine.get("rows_live", 0) == 0, stats
    return True


async def is_quiet(mesh: Mesh) -> bool:
    """Nothing is under way in gateway or workers."""
    text = (await get(mesh.gateway.url, "/metrics")).body.decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["mesh_gateway_active_requests"]) == 0
    assert read_metric(text, "mesh_gateway_queue_requests") == 0
    return all(is_empty(worker) for worker in mesh.workers)
