"""A gateway is killed in mid-answer: the client of docs/operations.md goes on at another one and sees no difference."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, Gateway, Mesh

TOKENS = 20
WORKER = ("--engine", "scripted", "--script-step-ms", "20", "--script-tokens", str(TOKENS))
Chunk = dict[str, Any]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The gateway that stays would choose the worker in front; the victims use the one in the back."""
    folder = tmp_path_factory.mktemp("reconnect")
    with Mesh(folder, workers=0, worker_args=WORKER, gateway_args=("--zone", "front")) as mesh:
        for zone in ("front", "back"):
            mesh.start_worker("--zone", zone)
        for worker in mesh.workers:
            worker.wait_ready()
        mesh.wait_listed(2)
        yield mesh


@contextmanager
def victim(mesh: Mesh, folder: Path) -> Generator[Gateway]:
    """A gateway that may be killed."""
    with Gateway(folder, "victim", "--zone", "back", etcd=mesh.gateway.etcd) as gateway:
        gateway.wait_ready()
        gateway.wait(lambda: gateway.metric("mesh_gateway_workers", state="ready") == 2)
        yield gateway


def client() -> Callable[[list[str], Chunk], Iterator[Chunk]]:
    """The documented one, as it stands there."""
    [code] = re.findall(r"```python\n(.*?def chunks.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["chunks"]


def without_identity(chunks: list[Chunk]) -> list[Chunk]:
    return [{name: value for name, value in chunk.items() if name not in ("id", "created")} for chunk in chunks]


def requests(mesh: Mesh) -> int:
    return sum(int(worker.stats().engine["requests"]) for worker in mesh.workers)


@pytest.mark.parametrize("k", [1, TOKENS // 2, TOKENS])
def test_a_killed_gateway_costs_no_token(mesh: Mesh, tmp_path: Path, k: int) -> None:
    body = mesh.chat("Hello", stream=True, stream_options={"include_usage": True}, seed=5, n=2)
    read = client()
    undisturbed = list(read([mesh.gateway.url], body))
    before = requests(mesh)
    came_back = mesh.gateway.metric("mesh_gateway_reconnects_total", how="kept")
    found: list[Chunk] = []
    with victim(mesh, tmp_path) as gateway:
        for chunk in read([gateway.url, mesh.gateway.url], body):
            found.append(chunk)
            if len(found) == 2 * k:
                gateway.kill()
    assert without_identity(found) == without_identity(undisturbed)
    assert len({(chunk["id"], chunk["created"]) for chunk in found}) == 1
    assert mesh.gateway.metric("mesh_gateway_reconnects_total", how="kept") == came_back + 1
    assert requests(mesh) == before + 1


def test_gateway_and_worker_are_killed_together(mesh: Mesh, tmp_path: Path) -> None:
    body = mesh.chat("Hello", stream=True, temperature=1, logprobs=True)  # no seed of its own
    found: list[Chunk] = []
    with victim(mesh, tmp_path) as gateway:
        for chunk in client()([gateway.url, mesh.gateway.url], body):
            found.append(chunk)
            if len(found) == TOKENS // 2:
                mesh.workers[1].kill()
                gateway.kill()
    assert len(found) == TOKENS + 2
    assert len({(chunk["id"], chunk["created"]) for chunk in found}) == 1
    assert mesh.gateway.metric("mesh_gateway_reconnects_total", how="computed again") == 1
