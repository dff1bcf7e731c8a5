"""A worker that serves three models, beside one that serves only one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.answers import ask, chat
from tests.e2e.faults import Scene, check_same, scene_args
from tests.model import tiny, tiny_encoders

TOKENS = 40
LIMITS = ("--threads", "2", "--kv-cache-tokens", "512")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("Llama", "Qwen2"):
        tiny.save(folder / name, name)
    tiny_encoders.save(folder / "Bert", tiny_encoders.make_encoder("Bert"))
    return folder


@pytest.fixture(scope="module")
def scene(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The victim serves all, the survivor only the first."""
    first, *others = (("--model-path", str(folder / name)) for name in ("Llama", "Qwen2", "Bert"))
    names = ("--model-name", "one", "--model-name", "two", "--model-name", "three")
    with scene_args(tmp_path_factory.mktemp("several"), LIMITS, "one") as mesh:
        survivor = mesh.start_worker(*first, "--model-name", "one", "--zone", "back", name="survivor")
        victim = mesh.start_worker(*first, *others[0], *others[1], *names, "--zone", "front", name="victim-0")
        survivor.wait_ready()
        victim.wait_ready()
        yield Scene(mesh, victim)


async def test_one_of_them_embeds(scene: Scene) -> None:
    await scene.ready()
    async with scene.mesh.async_openai() as client:
        found = await client.embeddings.create(model="three", input=["a text", "another text", "a text"], dimensions=8)
    first, second, third = (item.embedding for item in found.data)
    assert first == pytest.approx(third, abs=1e-6)
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-2)
    assert found.usage.prompt_tokens == len("a text" * 2 + "another text") + 6


async def test_both_models_answer_and_a_lost_answer_goes_on_where_its_model_is(scene: Scene) -> None:
    await scene.ready()
    bodies = {name: chat(name, max_tokens=TOKENS, ignore_eos=True) for name in ("one", "two")}
    await scene.learn(bodies)
    records = await asyncio.to_thread(scene.mesh.registered)
    assert [model.name for model in records["victim-0"].models] == ["one", "two", "three"]
    assert records["victim-0"].slots == 3 * records["survivor"].slots
    one, two = (scene.undisturbed[name] for name in ("one", "two"))
    assert one.texts != two.texts
    assert scene.victim.stats().engine["output_tokens"] == 2 * TOKENS

    async def on_token(count: int) -> None:
        if count == TOKENS // 2:
            scene.victim.kill()

    check_same({"one": await ask(scene.url, bodies["one"], on_token)}, scene.undisturbed)
    assert scene.victim.popen.poll() is not None
