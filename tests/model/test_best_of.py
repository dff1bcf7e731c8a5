"""More choices than are asked for: the best of them, by a mean that the test computes itself from all of them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedModel

from mesh.engine.base import ChoiceFinished, Delta, Output, Progress
from tests.model.driver import Answer, Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
# Choices of different lengths: letters only, of which some end the answer.
LETTERS = {token: -100.0 for token in range(320) if not 65 <= token < 91}
SAMPLED: dict[str, Any] = {
    "temperature": 1.3,
    "seed": 5,
    "logit_bias": LETTERS,
    "stop_token_ids": (70, 71),
    "stop": ("b", "cd", "m"),
}
EVERY = 6
BEST = 3


async def every_choice(driver: Driver) -> tuple[Answer, list[int]]:
    """All choices by themselves, and their order by mean log probability."""
    answer = await driver.ask(prompt_of(20), sampling={**SAMPLED, "n": EVERY}, output=Output(logprobs=0))
    deltas = [event for step in driver.steps for event in step.events if isinstance(event, Delta)]
    means: dict[int, float] = {}
    for choice in range(EVERY):
        values = [each.logprob for event in deltas if event.choice == choice for each in event.logprobs or ()]
        means[choice] = sum(values) / len(values)
    return answer, sorted(means, key=lambda choice: -means[choice])


@pytest.mark.parametrize("logprobs", [None, 2])
async def test_the_best_are_reported_in_order(llama: Saved, logprobs: int | None) -> None:
    async with Driver(llama[0]) as driver:
        every, order = await every_choice(driver)
        assert len({len(ids) for ids in every.tokens.values()}) > 2
        assert order[:BEST] != sorted(order[:BEST])
        # A credit would never be granted: nobody sees a token before the end.
        sampling = {**SAMPLED, "n": BEST, "best_of": EVERY}
        key = await driver.submit(prompt_of(20), sampling=sampling, output=Output(logprobs=logprobs), credit=1)
        best = await driver.answer(key)
        assert best.tokens == {rank: every.tokens[choice] for rank, choice in enumerate(order[:BEST])}
        assert best.text == {rank: every.text[choice] for rank, choice in enumerate(order[:BEST])}
        for rank, choice in enumerate(order[:BEST]):
            assert best.ends[rank].reason is every.ends[choice].reason
            assert best.ends[rank].stop_string == every.ends[choice].stop_string
        assert {end.stop_string is None for end in every.ends.values()} == {True, False}
        assert best.finished is not None
        assert every.finished is not None
        assert best.finished.completion_tokens == every.finished.completion_tokens
        assert len(best.logprobs) == (0 if logprobs is None else sum(map(len, best.tokens.values())))
        await driver.until_idle()


async def test_nothing_before_all_are_done(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        key = await driver.submit(prompt_of(20), sampling={**SAMPLED, "n": BEST, "best_of": EVERY})
        await driver.answer(key)
        steps = [step for step in driver.steps if any(event.key == key for event in step.events)]
        assert [[type(event).__name__ for event in step.events] for step in steps] == [
            ["Started"],
            ["Delta", "ChoiceFinished"] * BEST + ["Finished"],
        ]


async def test_resumed_ranks_are_not_told_again(llama: Saved) -> None:
    """What an earlier attempt may have told before it was lost: a rank with its end, one without, nothing of others."""
    sampling = {**SAMPLED, "n": BEST, "best_of": EVERY}
    async with Driver(llama[0]) as driver:
        whole = await driver.ask(prompt_of(20), sampling=sampling)
        told = {0: Progress(tuple(whole.tokens[0]), finished=True), 1: Progress(tuple(whole.tokens[1]))}
        rest = await driver.ask(prompt_of(20), sampling=sampling, resume=told)
        assert rest.tokens == {2: whole.tokens[2]}
        assert {rank: _facts(end) for rank, end in rest.ends.items()} == {
            rank: _facts(whole.ends[rank]) for rank in (1, 2)
        }
        assert rest.finished is not None
        assert whole.finished is not None
        assert rest.finished.completion_tokens == whole.finished.completion_tokens


def _facts(end: ChoiceFinished) -> tuple[Any, ...]:
    return end.choice, end.reason, end.stop_string, end.stop_token_id


async def test_other_tokens_than_it_would_tell_are_an_error(llama: Saved, caplog: pytest.LogCaptureFixture) -> None:
    async with Driver(llama[0]) as driver:
        answer = await driver.ask(prompt_of(20), sampling={**SAMPLED, "best_of": 2}, resume={0: [65, 66]})
        assert answer.failed is not None
        assert "rank 0" in caplog.text
        await driver.until_idle()
