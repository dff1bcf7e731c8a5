"""The same as test_failover.py on the demonstration model: real tokens, real attention, real samplers.

Starting such a worker takes seconds, so one fault interrupts many streams: the same requests, begun a token apart.
Rounds are repeated until every place of some answers has been hit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mesh.demo import model_path
from tests.e2e.answers import Answer, Body, ask, chat, messages
from tests.e2e.faults import Fault, Scene, Strike, check_same, drain, freeze, kill, late_stop, scene_args

MODEL = "demo"
TOKENS = 18
WORKER = ("--model-path", str(model_path()), "--model-name", MODEL, "--threads", "1", "--speculate-tokens", "3")
QUESTION = "Tell me a short story about a fox."
SCHEMA: Body = {
    "type": "json_schema",
    "json_schema": {
        "name": "story",
        "schema": {
            "type": "object",
            "properties": {"hero": {"type": "string", "maxLength": 30}, "words": {"type": "integer"}},
            "required": ["hero", "words"],
            "additionalProperties": False,
        },
    },
}
CASES: dict[str, Body] = {
    "greedy": chat(MODEL, QUESTION, max_tokens=TOKENS),
    "seeded": chat(MODEL, QUESTION, max_tokens=TOKENS, temperature=1, seed=5),
    "three choices": chat(MODEL, QUESTION, max_tokens=TOKENS, temperature=1, seed=6, n=3),
    "json schema": chat(MODEL, QUESTION, max_tokens=TOKENS, temperature=1, seed=8, response_format=SCHEMA),
    "log probabilities": chat(MODEL, QUESTION, max_tokens=TOKENS, logprobs=True, top_logprobs=2),
    "messages": messages(MODEL, QUESTION, max_tokens=TOKENS),
}
# Those that are interrupted at each of their places; the others wherever the rounds for these hit them.
EVERYWHERE = ("greedy", "seeded", "json schema", "log probabilities")
PACE = "long"
LONG = chat(MODEL, QUESTION, max_tokens=TOKENS * 3)
MOST_ROUNDS = 12
# A case and the number of tokens that a client had of it when the fault struck.
Hit = tuple[str, int]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_args(tmp_path_factory.mktemp("failover-model"), WORKER, MODEL) as mesh:
        yield Scene.build(mesh)


@pytest.mark.slow
async def test_killed_at_every_token(scene: Scene) -> None:
    await prepare(scene)
    left = {(name, place) for name in EVERYWHERE for place in range(scene.undisturbed[name].tokens)}
    rounds = 0
    while left:
        rounds += 1
        assert rounds <= MOST_ROUNDS, f"never hit: {left}"
        left -= await one_round(scene, kill, max(left, key=lambda hit: hit[1]))


@pytest.mark.parametrize("fault", [freeze, drain])
async def test_frozen_and_drained_at_several_tokens(scene: Scene, fault: Fault) -> None:
    hit: set[Hit] = set()
    for place in (TOKENS - 3, TOKENS - 5, TOKENS // 2):
        hit |= await one_round(scene, fault, ("greedy", place))
        if all(len({place for case, place in hit if case == name}) >= 3 for name in CASES):
            return
    pytest.fail(f"a case was hit at fewer than three places: {sorted(hit)}")


async def prepare(scene: Scene) -> None:
    """Both workers are there, and all undisturbed answers are known."""
    await scene.ready()
    await scene.learn(CASES | {PACE: LONG})
    assert '"hero"' in scene.undisturbed["json schema"].texts[0]
    text = scene.undisturbed["seeded"].texts[0]
    CASES["stop string"] = CASES["seeded"] | {"stop": ["never", late_stop(text)]}
    await scene.learn(CASES)
    stopped = scene.undisturbed["stop string"]
    assert stopped.reasons == {0: "stop"}
    assert text.startswith(stopped.texts[0])
    assert len(text) // 2 < len(stopped.texts[0]) < len(text) - 4


async def one_round(scene: Scene, fault: Fault, target: Hit) -> set[Hit]:
    """Strike once, exactly at the target, while many streams are at other places; all places that were hit."""
    await prepare(scene)
    staircase = Staircase(scene, fault, target)
    for name, answers in (await staircase.run()).items():
        for answer in answers:
            check_same({name: answer}, scene.undisturbed)
    return staircase.hits


class Staircase:
    """A long stream that sets the pace: at each of its tokens one stream of each case is begun; then comes the fault.

    It strikes when the first stream of the target's case has come to the target's place.
    """

    def __init__(self, scene: Scene, fault: Fault, target: Hit) -> None:
        self.hits: set[Hit] = set()
        self._scene = scene
        self._case, self._place = target
        self._strike = Strike(scene, fault, moves=len(CASES) - 2)
        self._counts: list[Hit] = []
        self._tasks: dict[str, list[asyncio.Task[Answer]]] = {name: [] for name in (PACE, *CASES)}

    async def run(self) -> dict[str, list[Answer]]:
        """All answers, by case."""
        async with asyncio.TaskGroup() as group:

            async def on_pace(_: int) -> None:
                self._strike.token()
                if not self._strike.struck:
                    for name in CASES:
                        self._begin(group, name)

            self._tasks[PACE].append(group.create_task(ask(self._scene.url, LONG, on_pace)))
        await self._strike.over()
        return {name: [task.result() for task in tasks] for name, tasks in self._tasks.items()}

    def _begin(self, group: asyncio.TaskGroup, name: str) -> None:
        number = len(self._counts)
        leads = name == self._case and not self._tasks[name]
        self._counts.append((name, 0))

        async def on_token(count: int) -> None:
            self._counts[number] = name, count
            self._strike.token()
            if leads and count == max(self._place, 1) and not self._strike.struck:
                self._note_hits()
                self._strike.at_once()

        self._tasks[name].append(group.create_task(ask(self._scene.url, CASES[name], on_token)))

    def _note_hits(self) -> None:
        totals = {name: self._scene.undisturbed[name].tokens for name in CASES}
        self.hits = {(name, place) for name, place in self._counts if place < totals[name]}
