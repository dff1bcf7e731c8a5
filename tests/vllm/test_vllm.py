"""The vLLM engine on a tiny random model, against transformers' own generate and forward.

Not part of `make test`: vLLM pins torch and transformers, so `make test-vllm` runs this in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.base import Chat, Constraint, FinishReason, Image, Message, Output, Progress
from mesh.errors import ErrorKind, MeshError
from tests.model.driver import prompt_of
from tests.vllm.driver import VllmDriver

pytestmark = pytest.mark.asyncio(loop_scope="session")
Saved = tuple[str, PreTrainedModel]


def greedy(saved: Saved, prompt: list[int], tokens: int) -> list[int]:
    """The tokens that transformers generates."""
    model: Any = saved[1]
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=-1
    )
    return out[0, len(prompt) :].tolist()


async def test_greedy_answers_are_those_of_generate(vllm: VllmDriver, saved: Saved) -> None:
    prompts = [prompt_of(length, start) for start, length in enumerate((3, 17, 40))]
    keys = [await vllm.submit(prompt, tokens=20) for prompt in prompts]
    for key, prompt in zip(keys, prompts, strict=True):
        answer = await vllm.answer(key)
        assert answer.ids == greedy(saved, prompt, 20)
        assert answer.started is not None
        assert answer.started.prompt_tokens == len(prompt)
        assert answer.ends[0].reason is FinishReason.LENGTH
        assert answer.finished is not None
        assert answer.finished.completion_tokens == 20


@pytest.mark.parametrize("after", [0, 1, 7, 19, 20])
async def test_a_resumed_answer_is_the_same(vllm: VllmDriver, saved: Saved, after: int) -> None:
    prompt = prompt_of(12)
    whole = await vllm.ask(prompt, tokens=20)
    rest = await vllm.ask(prompt, tokens=20, resume={0: whole.ids[:after]})
    assert rest.ids == whole.ids[after:]
    assert whole.text[0].endswith(rest.text.get(0, ""))
    assert rest.finished is not None
    assert rest.finished.completion_tokens == 20
    assert rest.ends[0] == whole.ends[0].__class__(rest.ends[0].key, 0, FinishReason.LENGTH, tokens=20)


async def test_stop_strings_and_ends_of_turn_are_our_own(vllm: VllmDriver, saved: Saved) -> None:
    prompt = prompt_of(9)
    plain = await vllm.ask(prompt, tokens=24)
    stop = plain.text[0][5:8]
    stopped = await vllm.ask(prompt, tokens=24, sampling={"stop": (stop,)})
    assert stopped.text[0] == plain.text[0][: plain.text[0].index(stop)]
    assert stopped.ends[0].stop_string == stop
    token = plain.ids[6]
    ended = await vllm.ask(prompt, tokens=24, sampling={"stop_token_ids": (token,)})
    assert ended.ids == plain.ids[: plain.ids.index(token) + 1]
    assert (ended.ends[0].reason, ended.ends[0].stop_token_id) == (FinishReason.STOP, token)
    later = await vllm.ask(prompt, tokens=24, sampling={"stop_token_ids": (token,), "min_tokens": 12})
    assert token not in later.ids[:12]


async def test_log_probabilities_are_those_of_the_model(vllm: VllmDriver, saved: Saved) -> None:
    prompt = prompt_of(10)
    answer = await vllm.ask(prompt, tokens=6, output=Output(logprobs=3))
    model: Any = saved[1]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 : -1]
    expected = logits.float().log_softmax(-1)
    for place, found in enumerate(answer.logprobs):
        assert found.token_id == answer.ids[place]
        assert found.logprob == pytest.approx(float(expected[place, found.token_id]), abs=1e-4)
        best = expected[place].topk(3)
        assert [top.token_id for top in found.top] == best.indices.tolist()
        assert [top.logprob for top in found.top] == pytest.approx(best.values.tolist(), abs=1e-4)


async def test_seeds_and_choices(vllm: VllmDriver) -> None:
    options = {"temperature": 1.0, "seed": 11, "n": 3, "top_k": 50}
    first = await vllm.ask(prompt_of(8), tokens=12, sampling=options)
    again = await vllm.ask(prompt_of(8), tokens=12, sampling=options)
    other = await vllm.ask(prompt_of(8), tokens=12, sampling={**options, "seed": 12})
    assert first.tokens == again.tokens != other.tokens
    assert len({tuple(ids) for ids in first.tokens.values()}) == 3
    assert first.finished is not None
    assert first.finished.completion_tokens == 36


async def test_a_constraint_is_kept_to(vllm: VllmDriver) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    sampling = {"temperature": 0.0, "ignore_eos": False}
    answer = await vllm.ask(
        prompt_of(8), tokens=100, sampling=sampling, constraint=Constraint("json_schema", json.dumps(schema))
    )
    assert json.loads(answer.text[0])["a"] in ("x", "y")
    assert answer.ends[0].reason is FinishReason.STOP
    chosen = await vllm.ask(
        prompt_of(8), tokens=40, sampling=sampling, constraint=Constraint("choice", ("red", "blue"))
    )
    assert chosen.text[0] in ("red", "blue")
    bad = await vllm.ask(prompt_of(8), constraint=Constraint("regex", "("))
    assert bad.failed is not None
    assert bad.failed.error.kind is ErrorKind.INVALID_REQUEST


async def test_pictures_are_refused(vllm: VllmDriver) -> None:
    with pytest.raises(MeshError) as caught:
        await vllm.submit(Chat((Message("user", ("What is it?", Image(b"x", "image/png"))),)))
    assert (caught.value.kind, caught.value.param) == (ErrorKind.UNSUPPORTED, "messages")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampling": {"typical_p": 0.5}}, "typical_p"),
        ({"sampling": {"temperature": 0.001}}, "temperature"),
        ({"sampling": {"best_of": 2}}, "best_of"),
        ({"output": Output(prompt_logprobs=1)}, "prompt_logprobs"),
        ({"adapter": "a"}, "adapter"),
        ({"resume": {0: (5,)}, "sampling": {"temperature": 1.0}}, "resume"),
        ({"resume": {0: (5,)}, "sampling": {"presence_penalty": 1.0}}, "resume"),
        ({"resume": {0: (5,)}, "constraint": Constraint("json_object")}, "resume"),
        ({"resume": {1: (5,)}}, "resume"),
        ({"sampling": {"logit_bias": {9999: 1.0}}}, "logit_bias"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(vllm: VllmDriver, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(MeshError) as caught:
        await vllm.submit(prompt_of(4), **fields)
    assert caught.value.param == param


async def test_a_sampled_answer_whose_seed_nobody_asked_for_goes_on(vllm: VllmDriver) -> None:
    sampling = {"temperature": 1.0, "seed": 3, "drawn_seed": True}
    answer = await vllm.ask(prompt_of(8), tokens=10, sampling=sampling, resume={0: (5, 6, 7)})
    assert len(answer.ids) == 7


async def test_a_finished_choice_stays_finished(vllm: VllmDriver) -> None:
    resume = {0: Progress((5, 6), finished=True), 1: Progress((7,))}
    answer = await vllm.ask(prompt_of(8), tokens=5, sampling={"n": 2}, resume=resume)
    assert (answer.tokens.get(0), len(answer.tokens[1])) == (None, 4)
    assert answer.finished is not None
    assert answer.finished.completion_tokens == 2 + 5


async def test_without_credit_tokens_wait(vllm: VllmDriver) -> None:
    prompt = prompt_of(8)
    key = await vllm.submit(prompt, tokens=30, credit=4)
    await vllm.until_tokens(key, 4)
    other = await vllm.ask(prompt_of(6, 3), tokens=30)  # meanwhile others are served
    assert len(other.ids) == 30
    assert len(vllm.answers[key].ids) == 4
    assert vllm.engine.load().paused == 1
    vllm.engine.grant(key, 100)
    assert (await vllm.answer(key)).ids == (await vllm.ask(prompt, tokens=30)).ids


async def test_cancel_frees_the_row(vllm: VllmDriver) -> None:
    key = await vllm.submit(prompt_of(8), tokens=200)
    await vllm.until_tokens(key, 2)
    vllm.engine.cancel(key)
    seen = len(vllm.answers[key].ids)
    async with asyncio.timeout(10):
        while vllm.source._llm.get_num_unfinished_requests():  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.01)
    assert len(vllm.answers[key].ids) == seen
    assert vllm.engine.load().running == 0


async def test_cached_tokens_are_counted_and_tenants_share_nothing(vllm: VllmDriver) -> None:
    prompt = prompt_of(200, 77)
    await vllm.ask(prompt, tokens=2, tenant="a")
    again = await vllm.ask(prompt, tokens=2, tenant="a")
    other = await vllm.ask(prompt, tokens=2, tenant="b")
    assert again.started is not None
    assert other.started is not None
    assert again.started.cached_tokens >= 100
    assert other.started.cached_tokens == 0
