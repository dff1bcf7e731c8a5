"""The same as test_failover.py on the demonstration model: real tokens, real attention, real samplers.

Starting such a worker takes seconds, so one fault interrupts many streams: the same requests, each begun a token after
the one before. Rounds are repeated until every place of the answer has been hit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mesh.demo import model_path
from tests.e2e.answers import Answer, Body, ask, chat
from tests.e2e.faults import Fault, Scene, Strike, check_same, drain, freeze, kill, scene_args

MODEL = "demo"
TOKENS = 18
WORKER = ("--model-path", str(model_path()), "--model-name", MODEL, "--threads", "1")
QUESTION = "Tell me a short story about a fox."
CASES: dict[str, Body] = {
    "greedy": chat(MODEL, QUESTION, max_tokens=TOKENS),
    "seeded": chat(MODEL, QUESTION, max_tokens=TOKENS, temperature=1, seed=5),
}
MOST_ROUNDS = 8

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_args(tmp_path_factory.mktemp("failover-model"), WORKER, MODEL) as mesh:
        yield Scene.build(mesh)


@pytest.mark.slow
async def test_killed_at_every_token(scene: Scene) -> None:
    hit: dict[str, set[int]] = {name: set() for name in CASES}
    for _ in range(MOST_ROUNDS):
        await one_round(scene, kill, hit)
        if all(places >= set(range(scene.undisturbed[name].tokens)) for name, places in hit.items()):
            return
    pytest.fail(f"after {MOST_ROUNDS} rounds only these places were hit: {hit}")


@pytest.mark.parametrize("fault", [freeze, drain])
async def test_frozen_and_drained_at_several_tokens(scene: Scene, fault: Fault) -> None:
    hit: dict[str, set[int]] = {name: set() for name in CASES}
    await one_round(scene, fault, hit)
    assert all(len(places) >= 3 for places in hit.values()), hit


async def one_round(scene: Scene, fault: Fault, hit: dict[str, set[int]]) -> None:
    """Strike once, while many streams of each case are at different places; note those in `hit`."""
    await scene.ready()
    await scene.learn(CASES)
    staircase = Staircase(scene, fault)
    answers = await staircase.run()
    for name, places in staircase.places.items():
        hit[name] |= places
    for name, mine in answers.items():
        for answer in mine:
            check_same({name: answer}, scene.undisturbed)


class Staircase:
    """Streams of all cases, each begun when the one before it has given its first token, until the first is done."""

    def __init__(self, scene: Scene, fault: Fault) -> None:
        self.places: dict[str, set[int]] = {name: set() for name in CASES}
        self._scene = scene
        self._strike = Strike(scene, fault)
        self._counts: dict[str, list[int]] = {name: [] for name in CASES}
        self._last = min(answer.tokens for answer in scene.undisturbed.values()) - 1

    async def run(self) -> dict[str, list[Answer]]:
        """All answers, by case."""
        tasks: dict[str, list[asyncio.Task[Answer]]] = {name: [] for name in CASES}
        async with asyncio.TaskGroup() as group:
            while self._strike.struck_at is None:
                for name, body in CASES.items():
                    first = asyncio.Event()
                    tasks[name].append(group.create_task(self._one(name, body, first)))
                    await first.wait()
        await self._strike.over()
        return {name: [task.result() for task in mine] for name, mine in tasks.items()}

    async def _one(self, name: str, body: Body, first: asyncio.Event) -> Answer:
        counts = self._counts[name]
        place = len(counts)
        counts.append(0)

        async def on_token(count: int) -> None:
            counts[place] = count
            first.set()
            if count == self._last and self._strike.struck_at is None:
                self._note_places()
                self._strike.at_once()
            self._strike.token()

        return await ask(self._scene.url, body, on_token)

    def _note_places(self) -> None:
        for name, counts in self._counts.items():
            self.places[name] = {count for count in counts if count < self._scene.undisturbed[name].tokens}
