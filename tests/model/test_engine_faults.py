"""What must not harm the engine: cancellation, bad requests, broken steps, numbers that are not finite, overload."""

from __future__ import annotations

import asyncio
import copy
import json
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

from mesh.engine.base import Chat, Constraint, Image, Message, Output, Progress, Tool, ToolCall
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
    ("model_not_found", "model", {"adapter": "a"}),
    ("invalid_request", "resume", {"sampling": {"best_of": 3}, "resume": {1: [3]}}),
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


async def test_one_poisonous_request_takes_no_others_with_it(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, step_tokens=16) as driver:
        keys = [await driver.submit(prompt_of(20 + index, index), tokens=100, credit=90) for index in range(3)]
        for key in keys:
            await driver.until_tokens(key, 3)
        with breaking_on(POISON):
            # Its first piece is harmless.
            bad = await driver.submit([*prompt_of(40, 9), POISON])
            assert _code(await driver.answer(bad)) == "engine_failed"
        for index, key in enumerate(keys):
            await driver.until_tokens(key, 90)
            driver.engine.grant(key, 10)
            assert (await driver.answer(key)).ids == generate(model, prompt_of(20 + index, index), 100)
        await driver.until_idle()


async def test_a_step_that_breaks_only_as_a_whole_spares_its_requests_once(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        running = await driver.submit(prompt_of(5), tokens=200)
        await driver.until_tokens(running, 2)
        with breaking_in_pairs():
            other = await driver.submit([POISON, POISON - 1])
            # They meet again in each step, so there is no way out but to fail.
            for key in (running, other):
                assert _code(await driver.answer(key)) == "engine_failed"
        assert len((await driver.ask(prompt_of(5))).ids) == 16


@contextmanager
def breaking_in_pairs() -> Generator[None]:
    """Every forward raises that holds the tokens of POISON's prompt and others'."""

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and (inputs[0] == POISON).any() and inputs[0].numel() > 2:
            raise RuntimeError("too large a step")

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def out_of_memory_above(tokens: int, error: Exception) -> Generator[None]:
    """Every forward raises that computes more tokens than this."""

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and inputs[0].numel() > tokens:
            raise error

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to allocate 1"
    ),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("packed", [True, False])
async def test_out_of_memory_sheds_the_newest(llama: Saved, error: Exception, packed: bool) -> None:
    path, model = llama
    async with Driver(path, packed=packed, speculate_tokens=2) as driver:
        older = [await driver.submit(prompt_of(20 + index, index), tokens=60, credit=60) for index in range(3)]
        for key in older:
            await driver.until_tokens(key, 3)
        with out_of_memory_above(45, error):
            newer = [await driver.submit(prompt_of(70, 7), sampling={"n": 2}), await driver.submit(prompt_of(5, 8))]
            failed = (await driver.answer(newer[0])).failed
            assert failed is not None
            assert failed.error.kind is ErrorKind.OVERLOADED
            assert failed.error.retry_after is not None
            for index, key in enumerate(older):
                assert (await driver.answer(key)).ids == generate(model, prompt_of(20 + index, index), 60)
            await driver.answer(newer[1])  # served, or refused as well if it was in the same step
        assert (await driver.ask(prompt_of(70, 7))).ids == generate(model, prompt_of(70, 7), 16)
        await driver.until_idle()


async def test_an_engine_whose_steps_all_break_gives_up(llama: Saved, caplog: pytest.LogCaptureFixture) -> None:
    async with Driver(llama[0], max_rows=1) as driver:
        with breaking_on(POISON):
            for _ in range(4):
                assert _code(await driver.ask([POISON])) == "engine_failed"
            await driver.ask(prompt_of(5))  # one step that works, and the count begins anew
            for _ in range(5):
                assert _code(await driver.ask([POISON])) == "engine_failed"
        await asyncio.wait_for(driver.engine.wait_broken(), 10)
        with pytest.raises(MeshError, match="broken down"):
            await driver.submit(prompt_of(5))
    assert "5 steps in a row broke" in caplog.text


async def test_a_request_that_is_tokenized_while_the_engine_breaks_down_is_refused(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        with breaking_on(POISON, SystemExit):
            # Long enough for the other thread, so the engine has broken down before it is back.
            late = asyncio.create_task(driver.submit(Chat((Message("user", ("x" * 3_000_000,)),))))
            await asyncio.sleep(0)
            await driver.submit([POISON])
            await asyncio.wait_for(driver.engine.wait_broken(), 10)
            assert not late.done()
            with pytest.raises(MeshError, match="broken down"):
                await late


async def test_a_deadline_in_thousands_of_years(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        paused = await driver.submit(prompt_of(5), tokens=4, credit=1, deadline=time.monotonic() + 3.6e11)
        await driver.until_tokens(paused, 1)
        driver.engine.grant(paused, 10)
        assert len((await driver.answer(paused)).ids) == 4


async def test_a_burst_does_not_outrun_the_queues_limit(llama: Saved) -> None:
    async with Driver(llama[0], max_rows=1, max_waiting=3) as driver:
        await driver.until_tokens(await driver.submit(prompt_of(5), tokens=200), 1)
        long = Chat((Message("user", ("x" * 5000,)),))
        burst = await asyncio.gather(*(driver.submit(long) for _ in range(20)), return_exceptions=True)
        kinds = [error.kind if isinstance(error, MeshError) else None for error in burst]
        assert kinds.count(ErrorKind.OVERLOADED) == 17
        assert driver.engine.load().waiting == 0  # they were all too long for the model


async def test_long_conversations_do_not_hold_up_the_event_loop(llama: Saved) -> None:
    call = ToolCall("1", "f", json.dumps({"a": "y" * 5000}))
    tool = Tool("f", "", {"type": "object"})
    chats = [
        Chat((Message("assistant", None, tool_calls=(call,)),)),
        Chat((Message("assistant", None, reasoning="y" * 5000),)),
        Chat((Message("user", ("x",)),) * 100),
        Chat((Message("user", ("x",)),), tools=(tool,)),
        Chat((Message("user", ("x",)),), template_arguments={"a": "y" * 5000}),
    ]
    async with Driver(llama[0]) as driver:
        for chat in chats:
            work = asyncio.create_task(driver.engine.tokenize("", chat))
            await asyncio.sleep(0)
            assert not work.done(), chat
            await asyncio.wait({work})
            assert isinstance(work.exception(), MeshError | None)  # the template presents no tools
        short = asyncio.create_task(driver.engine.tokenize("", Chat((Message("user", ("x",)),))))
        await asyncio.sleep(0)
        assert short.done()


async def test_text_whose_tokens_the_model_has_no_embedding_for(tmp_path: Path) -> None:
    tiny.save(tmp_path, "Llama")
    tokenizer = copy.deepcopy(make_tokenizer())
    tokenizer.add_tokens([f"[extra-{number}]" for number in range(100)])
    tokenizer.save_pretrained(tmp_path)
    known, unknown = "[extra-60]", "[extra-61]"  # the ids 319 and 320
    async with Driver(str(tmp_path)) as driver:
        for prompt in (f"a{unknown}b", Chat((Message("user", (unknown,)),))):
            with pytest.raises(MeshError, match=r"token id 320.* 0 to 319") as caught:
                await driver.submit(prompt)
            assert (caught.value.code, caught.value.param) == ("invalid_request", "prompt")
        assert len((await driver.ask(known)).ids) == 16


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
        scored = await driver.submit([1, POISON, *prompt_of(9)], tokens=60, output=Output(prompt_logprobs=1))
        for key in (bad, scored):
            assert _code(await driver.answer(key)) == "engine_failed"
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
