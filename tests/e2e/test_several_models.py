"""A worker that serves two models, beside one that serves only one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.answers import ask, chat
from tests.e2e.faults import Scene, check_same, scene_args
from tests.model import tiny

TOKENS = 40
LIMITS = ("--threads", "2", "--kv-cache-tokens", "512")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("Llama", "Qwen2"):
        tiny.save(folder / name, name)
    return folder


@pytest.fixture(scope="module")
def scene(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The victim serves both, the survivor only the first."""
    first, second = ("--model-path", str(folder / "Llama")), ("--model-path", str(folder / "Qwen2"))
    names = ("--model-name", "one", "--model-name", "two")
    with scene_args(tmp_path_factory.mktemp("several"), LIMITS, "one") as mesh:
        survivor = mesh.start_worker(*first, "--model-name", "one", "--zone", "back", name="survivor")
        victim = mesh.start_worker(*first, *second, *names, "--zone", "front", name="victim-0")
        survivor.wait_ready()
        victim.wait_ready()
        yield Scene(mesh, victim)


async def test_both_models_answer_and_a_lost_answer_goes_on_where_its_model_is(scene: Scene) -> None:
    await scene.ready()
    bodies = {name: chat(name, max_tokens=TOKENS, ignore_eos=True) for name in ("one", "two")}
    await scene.learn(bodies)
    records = await asyncio.to_thread(scene.mesh.registered)
    assert [model.name for model in records["victim-0"].models] == ["one", "two"]
    assert records["victim-0"].slots == 2 * records["survivor"].slots
    one, two = (scene.undisturbed[name] for name in ("one", "two"))
    assert one.texts != two.texts
    assert scene.victim.stats().engine["output_tokens"] == 2 * TOKENS

    async def on_token(count: int) -> None:
        if count == TOKENS // 2:
            scene.victim.kill()

    check_same({"one": await ask(scene.url, bodies["one"], on_token)}, scene.undisturbed)
    assert scene.victim.popen.poll() is not None
