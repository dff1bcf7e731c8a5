"""Random mixes: a row gets the tokens that it gets alone, whoever is beside it.

A pool of requests with options drawn at random is answered one by one. Then, in engines with little memory, small
steps, small pages, speculation or steps begun early, many random choices of them run together: they join and leave at
any time, are cancelled, resumed anywhere, preempted, forked, use adapters, and find each other's prefixes.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import PreTrainedModel

from mesh.engine.base import Constraint, Output
from mesh.engine.transformers.lora.config import AdapterSource
from tests.model.adapters import make_adapter
from tests.model.driver import Answer, Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
MIXES = 60
MOST = 32
TOKENS = 9
# 42 and 43 are letters that stop strings may hold; likely, so that guesses are right now and then.
LIKELY = {42: 60.0, 43: 60.0}
SCHEMA = '{"type": "object", "properties": {"ab": {"type": "integer"}}, "required": ["ab"]}'


@dataclass(frozen=True)
class Spec:
    """A request without its place in a mix."""

    prompt: tuple[int, ...]
    fields: dict[str, Any]

    @property
    def resumable(self) -> bool:
        """Whether its tokens can be given back to it: those of `best_of` are not told on the way."""
        return "best_of" not in self.fields["sampling"]


def draw_spec(draw: random.Random) -> Spec:
    """Options drawn at random, of which most requests use a few."""
    sampling: dict[str, Any] = {"seed": draw.randrange(2**40), "temperature": draw.choice([0.0, 0.7, 1.0, 1.5])}
    options: dict[str, Any] = {
        "top_p": 0.8,
        "top_k": 5,
        "min_p": 0.05,
        "typical_p": 0.9,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.3,
        "logit_bias": LIKELY,
        "stop_token_ids": (43,),
        "min_tokens": 3,
        "stop": ("KKL", "LL"),
        "n": draw.randint(2, 4),
        "best_of": 5,
    }
    sampling |= {name: options[name] for name in draw.sample(sorted(options), draw.randrange(5))}
    fields: dict[str, Any] = {"sampling": sampling, "tokens": draw.randint(1, TOKENS)}
    if draw.random() < 0.2:
        fields["constraint"] = draw.choice([Constraint("json_schema", SCHEMA), Constraint("regex", "[a-f]{2,5}")])
    if draw.random() < 0.3:
        fields["output"] = Output(logprobs=draw.choice([None, 2]), prompt_logprobs=draw.choice([None, 1]))
    if draw.random() < 0.3:
        fields["adapter"] = draw.choice(["a0", "a1"])
    # Some begin alike, some repeat themselves, some are one token.
    start = draw.choice([prompt_of(40), prompt_of(40), prompt_of(7) * 5, prompt_of(16, 3), []])
    return Spec((*start, *prompt_of(draw.randint(1, 20), draw.randrange(3))), fields)


def facts(answer: Answer) -> dict[str, Any]:
    assert answer.failed is None
    assert answer.started is not None
    ends = {choice: (end.reason, end.stop_string, end.stop_token_id) for choice, end in answer.ends.items()}
    return {
        "tokens": answer.tokens,
        "text": answer.text,
        "ends": ends,
        "count": answer.finished.completion_tokens if answer.finished else None,
        "prompt": [entry.token_id for entry in answer.started.prompt_logprobs],
        "logprobs": len(answer.logprobs),
    }


@pytest.fixture(scope="module")
def adapters(llama: Saved, tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterSource, ...]:
    folder = tmp_path_factory.mktemp("adapters")
    made = [make_adapter(folder / str(rank), llama[1], rank=rank, alpha=2 * rank, seed=rank) for rank in (2, 5)]
    return tuple(AdapterSource(f"a{index}", each.path) for index, each in enumerate(made))


@pytest.fixture(scope="module")
def pool(llama: Saved, adapters: tuple[AdapterSource, ...]) -> list[tuple[Spec, Answer]]:
    """Requests, and what each gets alone."""
    draw = random.Random(7)
    specs = [draw_spec(draw) for _ in range(48)]

    async def answers() -> list[tuple[Spec, Answer]]:
        async with Driver(llama[0], prefix_cache=False, adapters=adapters) as driver:
            return [(spec, await driver.ask(spec.prompt, **spec.fields)) for spec in specs]

    return asyncio.run(answers())


ENGINES: list[dict[str, Any]] = [
    {},
    {"speculate_tokens": 3},
    {"speculate_tokens": 2, "kv_tokens": 240, "page_size": 2, "step_tokens": 40},
    {"kv_tokens": 200, "page_size": 1, "prefix_cache": False},
    {"speculate_tokens": 4, "kv_tokens": 400, "page_size": 4, "step_tokens": 64},
    {"look_ahead": True},
    {"look_ahead": True, "kv_tokens": 200, "page_size": 1, "prefix_cache": False},
]


@pytest.mark.parametrize("options", ENGINES, ids=str)
@pytest.mark.slow
async def test_mixes(
    llama: Saved, adapters: tuple[AdapterSource, ...], pool: list[tuple[Spec, Answer]], options: dict[str, Any]
) -> None:
    draw = random.Random(str(options))
    async with Driver(llama[0], max_rows=MOST, adapters=adapters, **options) as driver:
        for _ in range(MIXES):
            await one_mix(driver, draw, pool)
        await driver.until_idle()
        assert driver.stat("kv_pages_copied") > 0
        assert (driver.stat("preemptions") > 0) is (options.get("kv_tokens", 999) < 300)
        assert (driver.stat("ahead_steps") > 0) is options.get("look_ahead", False)
        assert (driver.stat("accepted_tokens") > 0) is ("speculate_tokens" in options)


async def one_mix(driver: Driver, draw: random.Random, pool: list[tuple[Spec, Answer]]) -> None:
    """Start some requests one after the other, cancel some, and compare what all got."""
    keys: list[tuple[int, Spec, Answer, dict[int, int]]] = []
    cancelled: set[int] = set()
    for _ in range(draw.randint(1, draw.choice([3, 8, MOST]))):
        spec, alone = draw.choice(pool)
        done: dict[int, int] = {}
        if spec.resumable and draw.random() < 0.3:
            done = {choice: draw.randrange(len(ids)) for choice, ids in alone.tokens.items()}
        resume = {choice: alone.tokens[choice][:count] for choice, count in done.items() if count}
        credit = draw.choice([None, None, 1000])
        key = await driver.submit(spec.prompt, **spec.fields, resume=resume, credit=credit)
        keys.append((key, spec, alone, {choice: len(ids) for choice, ids in resume.items()}))
        if draw.random() < 0.1:
            cancelled.add(key)
        for _ in range(draw.choice([0, 0, 1, 5])):
            await asyncio.sleep(0)  # the engine steps on meanwhile
        if cancelled and draw.random() < 0.5:
            driver.engine.cancel(draw.choice(sorted(cancelled)))
    for key in cancelled:
        driver.engine.cancel(key)
    for key, spec, alone, done in keys:
        if key in cancelled:
            check_beginning(driver.answers[key], alone, done)
        else:
            check_whole(await driver.answer(key), spec, alone, done)


def check_beginning(answer: Answer, alone: Answer, done: dict[int, int]) -> None:
    for choice, ids in answer.tokens.items():
        rest = alone.tokens[choice][done.get(choice, 0) :]
        assert ids == rest[: len(ids)]


def check_whole(answer: Answer, spec: Spec, alone: Answer, done: dict[int, int]) -> None:
    if not done:
        assert facts(answer) == facts(alone), spec
        return
    assert answer.failed is None
    assert answer.tokens == {choice: ids[done.get(choice, 0) :] for choice, ids in alone.tokens.items()}, spec
    assert {choice: end.reason for choice, end in answer.ends.items()} == {
        choice: end.reason for choice, end in alone.ends.items()
    }
    for choice, text in answer.text.items():
        assert alone.text[choice].endswith(text)
