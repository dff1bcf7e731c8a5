"""Log probabilities of the prompt: those of the model's own forward, however the prompt was computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.base import Output
from mesh.errors import MeshError
from tests.model import tiny
from tests.model.driver import Answer, Driver, prompt_of
from tests.model.tiny import generate

Saved = tuple[str, PreTrainedModel]


def check(answer: Answer, model: PreTrainedModel, prompt: Sequence[int], top: int) -> None:
    """Against log_softmax of the logits of the whole prompt."""
    assert answer.started is not None
    found = answer.started.prompt_logprobs
    assert [entry.token_id for entry in found] == list(prompt)
    assert (found[0].logprob, found[0].top) == (0.0, [])
    with torch.no_grad():
        logits: torch.Tensor = cast("Any", model)(input_ids=torch.tensor([list(prompt)])).logits[0]
    truth = torch.log_softmax(logits.double(), -1)
    for place, entry in enumerate(found[1:]):
        row = truth[place]
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3), place
        best = row.topk(top)
        assert [each.token_id for each in entry.top] == best.indices.tolist(), place
        assert [each.logprob for each in entry.top] == pytest.approx(
            cast("list[float]", best.values.tolist()), abs=1e-3
        )


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Falcon", "Mamba"])
async def test_equal_to_the_models_own(saved: Callable[[str], Saved], name: str) -> None:
    path, model = saved(name)
    async with Driver(path) as driver:
        beside = await driver.submit(prompt_of(9, 4), tokens=30)
        answer = await driver.ask(prompt_of(50), output=Output(prompt_logprobs=4))
        check(answer, model, prompt_of(50), 4)
        assert answer.ids == generate(model, prompt_of(50), 16)
        assert (await driver.answer(beside)).ids == generate(model, prompt_of(9, 4), 30)
        # What is not asked for is not reported; a single token has nothing before it.
        plain = await driver.ask(prompt_of(50))
        assert plain.started is not None
        assert plain.started.prompt_logprobs == []
        check(await driver.ask([7], output=Output(prompt_logprobs=0)), model, [7], 0)


async def test_in_pieces_beside_others(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, step_tokens=8) as driver:
        outputs = [Output(prompt_logprobs=top) for top in range(4)]
        keys = [await driver.submit(prompt_of(60 + top, top), output=output) for top, output in enumerate(outputs)]
        for index, key in enumerate(keys):
            check(await driver.answer(key), model, prompt_of(60 + index, index), index)
            # The first event, and only once.
            events = [event for step in driver.steps for event in step.events if event.key == key]
            assert [type(event).__name__ for event in events].index("Started") == 0


async def test_pages_of_others_are_not_taken_and_are_given(llama: Saved) -> None:
    path, model = llama
    async with Driver(path) as driver:
        await driver.ask(prompt_of(50))
        scored = await driver.ask(prompt_of(50), output=Output(prompt_logprobs=1))
        check(scored, model, prompt_of(50), 1)
        assert scored.started is not None
        assert scored.started.cached_tokens == 0
        fresh = await driver.ask(prompt_of(70, 3), output=Output(prompt_logprobs=1))
        check(fresh, model, prompt_of(70, 3), 1)
        again = await driver.ask(prompt_of(70, 3))
        assert again.started is not None
        assert again.started.cached_tokens == 64


@pytest.mark.parametrize("prefix_cache", [True, False])
async def test_several_choices_compute_the_prompt_once(llama: Saved, prefix_cache: bool) -> None:
    path, model = llama
    async with Driver(path, prefix_cache=prefix_cache) as driver:
        sampling = {"temperature": 1.0, "seed": 7, "n": 3}
        answer = await driver.ask(prompt_of(40), sampling=sampling, output=Output(prompt_logprobs=2))
        check(answer, model, prompt_of(40), 2)
        assert answer.tokens == (await driver.ask(prompt_of(40), sampling=sampling)).tokens


async def test_a_prompt_that_has_to_give_way(llama: Saved) -> None:
    """The older rows need the pages while the prompt is half computed."""
    path, model = llama
    async with Driver(path, kv_tokens=192, step_tokens=8, prefix_cache=False) as driver:
        older = [await driver.submit(prompt_of(20, index), tokens=70) for index in range(2)]
        for key in older:
            await driver.until_tokens(key, 1)
        young = await driver.submit(prompt_of(90, 5), output=Output(prompt_logprobs=2))
        check(await driver.answer(young), model, prompt_of(90, 5), 2)
        assert driver.answers[young].ids == generate(model, prompt_of(90, 5), 16)
        assert driver.stat("preemptions") > 0
        await driver.until_idle()


async def test_not_once_more_when_resumed(llama: Saved) -> None:
    path, model = llama
    whole = generate(model, prompt_of(20), 16)
    async with Driver(path) as driver:
        answer = await driver.ask(prompt_of(20), resume={0: whole[:5]}, output=Output(prompt_logprobs=2))
        assert answer.ids == whole[5:]
        assert answer.started is not None
        assert answer.started.prompt_logprobs == []


async def test_refused_where_it_makes_no_sense(saved: Callable[[str], Saved]) -> None:
    async with Driver(saved("T5")[0]) as driver:
        with pytest.raises(MeshError, match="encoder") as caught:
            await driver.submit(prompt_of(20), output=Output(prompt_logprobs=0))
        assert (caught.value.code, caught.value.param) == ("unsupported", "prompt_logprobs")


async def test_very_long_prompts_are_refused(tmp_path: Any) -> None:
    path = tiny.save(tmp_path, "Llama", max_position_embeddings=8192)[0]
    async with Driver(path, kv_tokens=8192, max_rows=1) as driver:
        with pytest.raises(MeshError, match=r"at most 3120 tokens here, not 3121") as caught:
            await driver.submit(prompt_of(3121), output=Output(prompt_logprobs=20))
        assert caught.value.param == "prompt_logprobs"
        answer = await driver.ask(prompt_of(600), tokens=1, output=Output(prompt_logprobs=0))
        assert answer.started is not None
        assert len(answer.started.prompt_logprobs) == 600
        # 256 at a time, however many a step could hold.
        assert driver.stat("steps") == 3
