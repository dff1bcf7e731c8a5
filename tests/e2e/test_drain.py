"""`mesh ctl drain` moves every stream of a worker at once: the worker ends while all of them are still under way."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.e2e.answers import Answer, Body, ask, chat
from tests.harness import MODEL, ROOT, Mesh, eventually

STREAMS = 8
TOKENS = 200
WORKER = ("--engine", "scripted", "--script-step-ms", "40", "--script-tokens", str(TOKENS))
BODIES: list[Body] = [chat(MODEL, temperature=1, seed=seed, n=1 + seed % 2) for seed in range(STREAMS)]


async def ctl(*argv: str) -> str:
    """What `mesh ctl ARGV` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh.cli", "ctl", *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


async def test_all_streams_move_and_none_is_waited_for(tmp_path: Path) -> None:
    with Mesh(tmp_path, worker_args=(*WORKER, "--zone", "near"), gateway_args=("--zone", "near")) as mesh:
        far = mesh.add_worker("--zone", "far")
        near = mesh.workers[0]
        expected = await asyncio.gather(*(ask(mesh.gateway.url, body) for body in BODIES))
        begun = set[int]()

        async def answer(place: int, body: Body) -> Answer:
            async def on_token(_: int) -> None:
                begun.add(place)

            return await ask(mesh.gateway.url, body, on_token)

        answers = [asyncio.create_task(answer(place, body)) for place, body in enumerate(BODIES)]
        await eventually(lambda: len(begun) == STREAMS)
        assert (near.stats().live_streams, far.stats().live_streams) == (STREAMS, 0)
        printed = await ctl("drain", near.name, "--stop", "--etcd", mesh.gateway.etcd)
        assert printed == f"{near.name} drains; live streams: {STREAMS}\n"
        assert await asyncio.to_thread(near.wait_exit) == 0
        assert not [task for task in answers if task.done()]
        assert [each.seen for each in await asyncio.gather(*answers)] == [each.seen for each in expected]
        assert mesh.gateway.metric("mesh_gateway_resumes_total", cause="draining") == STREAMS
        assert mesh.gateway.metric("mesh_gateway_resumes_total") == STREAMS
