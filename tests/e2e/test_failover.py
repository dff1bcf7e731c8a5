"""A worker is killed, frozen or drained after each k-th token of an answer: the client sees what it would have seen.

Exhaustive over k, on the scripted engine, for every way to ask at once; tests/e2e/test_failover_model.py does the same
on a real model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.e2e.answers import Answer, Body, ask, chat, messages
from tests.e2e.faults import FAULTS, Fault, Scene, Strike, check_same, late_stop, scene_args
from tests.harness import MODEL, eventually

TOKENS = 20
ROUNDS = 3
WORKER = (
    "--engine",
    "scripted",
    "--script-step-ms",
    "20",
    "--script-tokens",
    str(TOKENS),
    "--script-prefill-ms",
    "100",
)
CASES: dict[str, Body] = {
    "greedy": chat(MODEL),
    "seeded": chat(MODEL, temperature=1, seed=11),
    "two choices": chat(MODEL, temperature=1, seed=12, n=2),
    "log probabilities": chat(MODEL, temperature=1, seed=13, logprobs=True, top_logprobs=3),
    "messages": messages(MODEL),
    "in one piece": chat(MODEL, temperature=1, seed=14, stream=False),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_args(tmp_path_factory.mktemp("failover"), WORKER, MODEL) as mesh:
        yield Scene.build(mesh)


@pytest.mark.parametrize("k", range(TOKENS + 1))
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_client_sees_no_difference(scene: Scene, fault: Fault, k: int) -> None:
    await scene.ready()
    await scene.learn(CASES)
    greedy = scene.undisturbed["greedy"]
    assert greedy.tokens == TOKENS
    assert len(scene.undisturbed["log probabilities"].logprobs[0]) >= TOKENS * 4
    CASES["stop string"] = chat(MODEL, stop=["never", late_stop(greedy.texts[0])])
    await scene.learn(CASES)
    assert TOKENS // 2 < scene.undisturbed["stop string"].tokens < TOKENS
    for _ in range(ROUNDS):
        if await interrupted(scene, fault, k) or k >= TOKENS - 1:
            return
    pytest.fail(f"hardly a stream was interrupted in {ROUNDS} rounds")


async def interrupted(scene: Scene, fault: Fault, k: int) -> bool:
    """Compare all answers of one round; whether the fault struck while they were under way.

    A machine that stands still for a moment lets the worker finish before the fault is there.
    """
    await scene.ready()
    attempts = scene.attempts()
    check_same(await disturbed(scene, fault, k), scene.undisturbed)
    # The one with a stop string may have ended, and one may be a step ahead of the others.
    return scene.attempts() - attempts - len(CASES) >= len(CASES) - 2


async def disturbed(scene: Scene, fault: Fault, k: int) -> dict[str, Answer]:
    """All answers; the fault strikes when the greedy stream has given its k-th token."""
    strike = Strike(scene, fault, moves=len(CASES) - 2)

    async def on_token(count: int) -> None:
        if count == k:
            strike.at_once()
        strike.token()

    async with asyncio.TaskGroup() as group:
        tasks = {
            name: group.create_task(ask(scene.url, body, on_token if name == "greedy" else None))
            for name, body in CASES.items()
        }
        if k == 0:
            await eventually(lambda: strike.victim.stats().live_streams == len(CASES))
            strike.at_once()
    await strike.over()
    return {name: task.result() for name, task in tasks.items()}
