"""`mesh ctl drain` moves every stream of a worker at once, whichever gateway it is of: the worker ends while all of
them are still under way, and each token comes once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.e2e.answers import Answer, Body, ask, chat
from tests.harness import MODEL, ROOT, Gateway, Mesh, eventually

STREAMS = 8
TOKENS = 200
WORKER = ("--engine", "scripted", "--script-step-ms", "40", "--script-tokens", str(TOKENS))
BODIES: list[Body] = [
    chat(MODEL, temperature=1, seed=seed, n=1 + seed % 2, return_token_ids=True) for seed in range(STREAMS)
]


async def ctl(*argv: str) -> str:
    """What `mesh ctl ARGV` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh.cli", "ctl", *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


def token_ids(answer: Answer) -> dict[int, list[int]]:
    """Those that came, by choice."""
    found: dict[int, list[int]] = {}
    for chunk in answer.chunks:
        for choice in chunk["choices"]:
            found.setdefault(choice["index"], []).extend(choice.get("token_ids") or [])
    return found


async def test_all_streams_move_and_none_is_waited_for(tmp_path: Path) -> None:
    zone = ("--zone", "near")
    with (
        Mesh(tmp_path, worker_args=(*WORKER, *zone), gateway_args=zone) as mesh,
        Gateway(tmp_path, "second", *zone, etcd=mesh.gateway.etcd) as second,
    ):
        far = mesh.add_worker("--zone", "far")
        near = mesh.workers[0]
        gateways = (mesh.gateway, second)
        await asyncio.to_thread(second.wait_ready)
        await eventually(lambda: all(each.metric("mesh_gateway_workers", state="ready") == 2 for each in gateways))
        expected = await asyncio.gather(*(ask(mesh.gateway.url, body) for body in BODIES))
        begun = set[int]()

        async def answer(place: int, body: Body) -> Answer:
            async def on_token(_: int) -> None:
                begun.add(place)

            return await ask(gateways[place % 2].url, body, on_token)

        answers = [asyncio.create_task(answer(place, body)) for place, body in enumerate(BODIES)]
        await eventually(lambda: len(begun) == STREAMS)
        assert (near.stats().live_streams, far.stats().live_streams) == (STREAMS, 0)
        printed = await ctl("drain", near.name, "--stop", "--etcd", mesh.gateway.etcd)
        assert printed == f"{near.name} drains; live streams: {STREAMS}\n"
        assert await asyncio.to_thread(near.wait_exit) == 0
        assert not [task for task in answers if task.done()]
        found = await asyncio.gather(*answers)
        assert [each.seen for each in found] == [each.seen for each in expected]
        assert [token_ids(each) for each in found] == [token_ids(each) for each in expected]
        for each in found:
            assert each.usage is not None
            assert sum(map(len, token_ids(each).values())) == each.usage["completion_tokens"] >= TOKENS
        for gateway in gateways:
            assert gateway.metric("mesh_gateway_resumes_total", cause="draining") == STREAMS / 2
            assert gateway.metric("mesh_gateway_resumes_total") == STREAMS / 2
