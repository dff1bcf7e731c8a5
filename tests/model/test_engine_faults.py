"""What must not harm the engine: cancellation, bad requests, broken steps, numbers that are not finite, overload."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from mesh.engine.base import Chat, Constraint, Image, Message, Output, Progress
from mesh.errors import ErrorKind, MeshError
from tests.model import tiny
from tests.model.driver import Answer, Driver, prompt_of
from tests.model.tiny import VOCAB, generate, make_tokenizer

Saved = tuple[str, PreTrainedModel]
POISON = 301


async def test_cancel_frees_everything_within_two_steps(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        other = await driver.submit(prompt_of(5, 1), tokens=200)
        key = await driver.submit(prompt_of(60), tokens=150, sampling={"n": 2})
        await driver.until_tokens(key, 3)
        driver.engine.cancel(key)
        seen, steps = len(driver.answers[key].ids), driver.stat("steps")
        await driver.until_tokens(other, len(driver.answers[other].ids) + 5)
        # The step after `steps` may have begun before the cancellation.
        assert {step.load.running for step in driver.steps if step.number >= steps + 2} == {1}
        assert len(driver.answers[key].ids) == seen
        driver.engine.cancel(other)
        await driver.until_idle()


async def test_cancel_of_unknown_and_ended_requests(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        driver.engine.cancel(12345)
        answer = await driver.ask(prompt_of(5))
        driver.engine.cancel(1)
        driver.engine.grant(1, 5)
        assert (await driver.ask(prompt_of(5))).ids == answer.ids


async def test_random_cancels_leave_nothing(llama: Saved) -> None:
    draw = random.Random(5)
    path, model = llama
    async with Driver(path, kv_tokens=320, step_tokens=16) as driver:
        live: list[int] = []
        for index in range(80):
            fields: dict[str, Any] = {"sampling": {"n": draw.choice([1, 1, 2])}, "credit": draw.choice([None, 4])}
            live.append(await driver.submit(prompt_of(draw.randrange(1, 90), index % 7), tokens=40, **fields))
            await asyncio.sleep(draw.random() * 0.004)
            if len(live) > 5:
                driver.engine.cancel(live.pop(draw.randrange(len(live))))
        for key in live:
            driver.engine.cancel(key)
        await driver.until_idle()
        assert (await driver.ask(prompt_of(70, 2))).ids == generate(model, prompt_of(70, 2), 16)


BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("invalid_request", "regex", {"constraint": Constraint("regex", "(")}),
    ("invalid_request", "resume", {"constraint": Constraint("regex", "a"), "resume": {0: [5]}}),
    ("unsupported", "adapter", {"adapter": "a"}),
    ("unsupported", "prompt_logprobs", {"output": Output(prompt_logprobs=0)}),
    ("unsupported", "best_of", {"sampling": {"best_of": 3}}),
    ("invalid_request", "logit_bias", {"sampling": {"logit_bias": {VOCAB: 1.0}}}),
    ("invalid_request", "stop_token_ids", {"sampling": {"stop_token_ids": (VOCAB + 5,)}}),
    ("invalid_request", "resume", {"resume": {1: [3]}}),
    ("invalid_request", "resume", {"resume": {0: [VOCAB]}}),
    ("invalid_request", "resume", {"tokens": 2, "resume": {0: Progress((1, 2, 3))}}),
]


@pytest.mark.parametrize(("code", "param", "fields"), BAD, ids=[f"{bad[1]}-{index}" for index, bad in enumerate(BAD)])
async def test_refused_by_name(llama: Saved, code: str, param: str, fields: dict[str, Any]) -> None:
    async with Driver(llama[0]) as driver:
        with pytest.raises(MeshError) as caught:
            await driver.submit(prompt_of(5), **fields)
        assert (caught.value.code, caught.value.param) == (code, param)
        assert driver.stat("rows_live") == 0


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ([], "invalid_request"),
        ([VOCAB], "invalid_request"),
        ([-1], "invalid_request"),
        ("", "invalid_request"),
        ("a\ud800b", "invalid_request"),
        (Chat((Message("user", (Image(b"x", "image/png"),)),)), "unsupported"),
    ],
)
async def test_bad_prompts(llama: Saved, prompt: Any, code: str) -> None:
    async with Driver(llama[0]) as driver:
        with pytest.raises(MeshError) as caught:
            await driver.submit(prompt)
        assert caught.value.code == code
        assert len((await driver.ask("a\x00b")).ids) == 16


async def test_a_prompt_larger_than_the_pool_is_refused(llama: Saved) -> None:
    async with Driver(llama[0], kv_tokens=64) as driver:
        with pytest.raises(MeshError, match=r"64 tokens.*64 tokens") as caught:
            await driver.submit(prompt_of(64))
        assert caught.value.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED
        assert driver.engine.models[0].context_length == 64
        assert len((await driver.ask(prompt_of(63), tokens=None)).ids) == 1


async def test_the_end_of_the_pool_is_the_end_of_the_context(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, kv_tokens=64) as driver:
        keys = [await driver.submit(prompt_of(20, index), tokens=1000) for index in range(3)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == generate(model, prompt_of(20, index), 44)


async def test_unknown_model(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        with pytest.raises(MeshError, match=driver.engine.models[0].name) as caught:
            await driver.engine.tokenize("other", Chat(()))
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


async def test_the_queue_is_bounded(llama: Saved) -> None:
    async with Driver(llama[0], max_rows=2, max_waiting=3) as driver:
        for _ in range(2):
            await driver.until_tokens(await driver.submit(prompt_of(5), tokens=200), 1)
        queued = [await driver.submit(prompt_of(5), tokens=2) for _ in range(3)]
        with pytest.raises(MeshError) as caught:
            await driver.submit(prompt_of(5))
        assert caught.value.kind is ErrorKind.OVERLOADED
        assert caught.value.retry_after is not None
        assert driver.engine.load().waiting == 3
        for key in (1, 2):
            driver.engine.cancel(key)
        for key in queued:
            assert len((await driver.answer(key)).ids) == 2


async def test_deadlines_end_queued_and_running_requests(llama: Saved) -> None:
    async with Driver(llama[0], max_rows=1) as driver:
        await driver.until_tokens(await driver.submit(prompt_of(5), tokens=200), 1)
        queued = await driver.submit(prompt_of(5), deadline=time.monotonic())
        assert _code(await driver.answer(queued)) == "deadline_exceeded"
        assert driver.answers[queued].started is None
        driver.engine.cancel(1)
        # Nothing happens any more until its time has come.
        paused = await driver.submit(prompt_of(5), credit=1, deadline=time.monotonic() + 0.1)
        assert _code(await driver.answer(paused)) == "deadline_exceeded"
        assert len((await driver.ask(prompt_of(5), tokens=3)).ids) == 3


def _code(answer: Answer) -> str:
    assert answer.failed is not None
    return answer.failed.error.code


async def test_lower_priority_numbers_go_first(llama: Saved) -> None:
    async with Driver(llama[0], max_rows=1) as driver:
        await driver.until_tokens(await driver.submit(prompt_of(5), tokens=30), 1)
        late = await driver.submit(prompt_of(5), tokens=2, priority=1)
        soon = await driver.submit(prompt_of(5), tokens=2, priority=-1)
        await driver.answer(late)
        assert driver.answers[soon].over.is_set()
        order = [event.key for step in driver.steps for event in step.events]
        assert order.index(soon) < order.index(late)


@contextmanager
def breaking_on(token: int, error: type[BaseException] = RuntimeError) -> Generator[None]:
    """Every forward raises whose tokens hold this one."""

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and bool((inputs[0] == token).any()):
            raise error("a broken step")

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


async def test_a_broken_step_fails_only_its_batch(llama: Saved, caplog: pytest.LogCaptureFixture) -> None:
    path, model = llama
    async with Driver(path, max_rows=1) as driver:
        paused = await driver.submit(prompt_of(40), tokens=12, credit=2)
        await driver.until_tokens(paused, 2)
        with breaking_on(POISON):
            bad = await driver.submit([1, 2, POISON], tokens=3)
            waiting = await driver.submit(prompt_of(33, 1))
            failed = (await driver.answer(bad)).failed
            assert failed is not None
            assert failed.error.kind is ErrorKind.ENGINE_FAILED
            assert "broken step" not in failed.error.message
        assert (await driver.answer(waiting)).ids == generate(model, prompt_of(33, 1), 16)
        driver.engine.grant(paused, 100)
        assert (await driver.answer(paused)).ids == generate(model, prompt_of(40), 12)
        assert driver.stat("kv_pages_used") == 0
    assert "a broken step" in caplog.text


async def test_an_engine_that_cannot_go_on_says_so(llama: Saved, caplog: pytest.LogCaptureFixture) -> None:
    async with Driver(llama[0]) as driver:
        other = await driver.submit(prompt_of(5), tokens=2, credit=1)
        with breaking_on(POISON, SystemExit):
            bad = await driver.submit([POISON])
            late = await driver.submit(prompt_of(5))
            for key in (other, bad, late):
                assert _code(await driver.answer(key)) == "engine_failed"
        with pytest.raises(MeshError, match="broken down"):
            await driver.submit(prompt_of(5))
    assert "the engine has broken down" in caplog.text


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A Llama with a token whose embedding is not a number: it spoils its row, and the row's pages."""
    folder = tmp_path_factory.mktemp("poisoned")
    model = tiny.make_model("Llama")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        parameters["model.embed_tokens.weight"][POISON] = torch.nan
        parameters["lm_head.weight"][POISON] = 0  # and that the model does not say
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder), model


async def test_numbers_that_are_not_finite_spoil_one_row_only(poisoned: Saved) -> None:
    path, model = poisoned
    async with Driver(path, kv_tokens=256) as driver:
        assert driver.engine.models[0].execution == "packed"
        good = await driver.submit(prompt_of(30, 1), tokens=60)
        bad = await driver.submit([1, 2, POISON, *prompt_of(60)], tokens=60)
        assert _code(await driver.answer(bad)) == "engine_failed"
        assert (await driver.answer(good)).ids == generate(model, prompt_of(30, 1), 60)
        # The spoilt pages go to others now, who fill them in part.
        keys = [await driver.submit(prompt_of(50, index), tokens=60) for index in range(3)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == generate(model, prompt_of(50, index), 60)


async def test_pages_of_a_spoilt_prompt_that_nobody_looked_at(poisoned: Saved) -> None:
    path, model = poisoned
    async with Driver(path, kv_tokens=128, step_tokens=8) as driver:
        bad = await driver.submit([1, 2, POISON, *prompt_of(100)], tokens=5)
        while driver.stat("steps") < 3:
            await asyncio.sleep(0.0005)
        driver.engine.cancel(bad)
        keys = [await driver.submit(prompt_of(40, index), tokens=50) for index in range(2)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == generate(model, prompt_of(40, index), 50)


async def test_stop_in_the_middle(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        key = await driver.submit(prompt_of(5), tokens=200)
        await driver.until_tokens(key, 2)
        await driver.engine.stop()
        steps = len(driver.steps)
        with pytest.raises(MeshError):
            await driver.submit(prompt_of(5))
    assert len(driver.steps) == steps


async def test_a_bad_path_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="nothing-here"):
        async with Driver(str(tmp_path / "nothing-here")):
            pass
