"""LoRA adapters through the whole mesh: found by name, loaded and let go while it runs, moved exactly."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest

from mesh.cli.client import GatewayClient
from tests.e2e.answers import Answer, Body, ask, chat
from tests.e2e.faults import Scene, check_same, scene_args
from tests.e2e.tiny_mesh import MODEL, model_folder, tiny_args
from tests.harness import ROOT, Mesh, wait_until
from tests.model.adapters import make_adapter

TOKENS = 150
# A stream is begun when the one before has so many tokens.
STEP = 4

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three adapters of the tiny model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder())
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(folder / str(seed), model, rank=seed, seed=seed).path for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, folders: list[str]) -> Iterator[Scene]:
    """Victim and survivor have the same adapters; an impostor has other weights under the name of one of them."""
    law, verse, other = folders
    with scene_args(tmp_path_factory.mktemp("adapters-mesh"), (), MODEL) as mesh:
        same = tiny_args("--lora", f"law={law}", "--lora", f"verse={verse}")
        base = ("--model-path", model_folder(), "--model-name", "another", "--threads", "1")
        workers = [
            mesh.start_worker(*same, "--zone", "back", name="survivor"),
            mesh.start_worker(*base, "--lora", f"law={other}", "--zone", "back", name="impostor"),
            mesh.start_worker(*same, "--zone", "front", name="victim"),
        ]
        for worker in workers:
            worker.wait_ready(within=90)  # three import torch at once
        mesh.wait_listed(len(workers))
        yield Scene(mesh, workers[-1])


def ctl(mesh: Mesh, *argv: str) -> str:
    """The output of `mesh ctl`."""
    command = [sys.executable, "-m", "mesh.cli", "ctl", *argv, "--etcd", mesh.gateway.etcd]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_adapter_is_a_model(scene: Scene) -> None:
    mesh = scene.mesh
    listed = mesh.gateway.get("/v1/models").json()["data"]
    found = {model["id"]: (model["root"], model["parent"]) for model in listed}
    assert found["verse"] == (MODEL, MODEL)
    assert found[MODEL] == (MODEL, None)
    assert found.keys() == {"law", "verse", MODEL, "another"}
    # `mesh chat` takes the first one: no adapter.
    assert GatewayClient(mesh.gateway.url).models() == ["another", MODEL, "law", "verse"]
    with mesh.openai() as client:
        answers = {
            name: client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "Hello"}], temperature=0, max_tokens=20
            )
            for name in ("law", "verse", MODEL)
        }
        assert {answer.model for answer in answers.values()} == {"law", "verse", MODEL}
        assert len({answer.choices[0].message.content for answer in answers.values()}) == 3
        assert len({answer.system_fingerprint for answer in answers.values()}) == 3


def test_loaded_listed_and_let_go_while_the_mesh_runs(scene: Scene, folders: list[str]) -> None:
    mesh = scene.mesh
    said = ctl(mesh, "adapters", "load", "victim", f"late={folders[2]}")
    assert said.startswith(f"victim serves late, an adapter of {MODEL}; fingerprint ")
    wait_until(lambda: "late" in mesh.gateway.models())
    assert [model.base for model in mesh.registered()["victim"].models if model.name == "late"] == [MODEL]
    names = [line.split()[0] for line in ctl(mesh, "adapters", "list", "victim").splitlines()[1:]]
    assert names == ["law", "verse", "late"]
    with mesh.openai() as client:
        question = {"model": "late", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        assert client.chat.completions.create(**question).usage.completion_tokens == 5  # pyright: ignore
        assert "live streams: 0" in ctl(mesh, "adapters", "unload", "victim", "late")
        wait_until(lambda: "late" not in mesh.gateway.models())
        # At once, and not after the time that a request waits for a worker.
        with pytest.raises(openai.NotFoundError, match="'late' does not exist"):
            client.with_options(timeout=5).chat.completions.create(**question)  # pyright: ignore


BODIES: dict[str, Body] = {
    f"{model} {how}": chat(model, max_tokens=TOKENS, ignore_eos=True) | options
    for how, options in {"greedy": Body(), "seeded": Body(temperature=1, seed=5)}.items()
    for model in ("law", "verse", MODEL)
}


async def test_killed_while_answers_are_at_several_places(scene: Scene) -> None:
    await scene.learn(BODIES)
    names, counts = list(BODIES), dict.fromkeys(BODIES, 0)
    places: set[int] = set()
    answers: dict[str, asyncio.Task[Answer]] = {}
    async with asyncio.TaskGroup() as group:

        def begin(index: int) -> None:
            name = names[index]

            async def on_token(count: int) -> None:
                counts[name] = count
                if count == STEP and index + 1 < len(names):
                    begin(index + 1)
                elif count == STEP:
                    places.update(counts.values())
                    scene.victim.kill()

            answers[name] = group.create_task(ask(scene.url, BODIES[name], on_token))

        begin(0)
    assert len(places) >= 3
    assert max(places) < TOKENS
    check_same({name: task.result() for name, task in answers.items()}, scene.undisturbed)
    assert scene.mesh.gateway.metric("mesh_gateway_resumes_total") == len(names)
    # Asked for `law`, but by nobody who had begun with the other weights of that name.
    assert scene.mesh.worker("impostor").stats().streams_started == 0
