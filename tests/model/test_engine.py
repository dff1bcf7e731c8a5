"""Answers of the packed engine: exact, whatever runs beside them and however they were computed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedModel

from mesh.engine.base import Chat, FinishReason, Message, Output, Progress, Text
from tests.model.driver import Driver, prompt_of
from tests.model.tiny import EOS, VOCAB, generate, save

Saved = tuple[str, PreTrainedModel]
SAMPLED = {"temperature": 1.0, "top_p": 0.95, "seed": 77}


async def test_greedy_equals_generate(llama: Saved) -> None:
    path, model = llama
    async with Driver(path) as driver:
        answer = await driver.ask(prompt_of(20), tokens=40)
        assert answer.ids == generate(model, prompt_of(20), 40)
        assert answer.finished is not None
        assert (answer.finished.prompt_tokens, answer.finished.completion_tokens) == (20, 40)
        assert answer.ends[0].reason is FinishReason.LENGTH
        assert driver.engine.models[0].execution == "packed"


async def test_a_batch_with_joins_and_leaves(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, max_rows=8) as driver:
        keys: list[int] = []
        for index in range(12):
            keys.append(await driver.submit(prompt_of(3 + 9 * index, index), tokens=10 + 5 * (index % 4)))
            await driver.until_tokens(keys[index // 2], min(index, 8))
        for index, key in enumerate(keys):
            answer = await driver.answer(key)
            assert answer.ids == generate(model, prompt_of(3 + 9 * index, index), 10 + 5 * (index % 4)), index
        assert max(step.load.running for step in driver.steps) > 1
        assert driver.stat("kv_pages_used") == 0
        assert driver.stat("rows_live") == 0


async def test_a_prefix_hit_changes_nothing(llama: Saved) -> None:
    path, model = llama
    async with Driver(path) as driver:
        first = await driver.ask(prompt_of(50))
        again = await driver.ask(prompt_of(50))
        longer = await driver.ask(prompt_of(50) + first.ids + [5])
    assert first.started is not None
    assert again.started is not None
    assert longer.started is not None
    assert (first.started.cached_tokens, again.started.cached_tokens) == (0, 48)
    assert longer.started.cached_tokens == 64
    assert first.ids == again.ids == generate(model, prompt_of(50), 16)
    assert longer.ids == generate(model, prompt_of(50) + first.ids + [5], 16)


async def test_a_prompt_of_whole_pages_computes_its_last_token(llama: Saved) -> None:
    path, model = llama
    async with Driver(path) as driver:
        await driver.ask(prompt_of(48))
        again = await driver.ask(prompt_of(48))
    assert again.started is not None
    assert again.started.cached_tokens == 32
    assert again.ids == generate(model, prompt_of(48), 16)


@pytest.mark.parametrize("other", [{"tenant": "b"}, {"cache_salt": "s"}])
async def test_prefixes_are_not_shared_between_scopes(llama: Saved, other: dict[str, str]) -> None:
    async with Driver(llama[0]) as driver:
        await driver.ask(prompt_of(50))
        answer = await driver.ask(prompt_of(50), **other)
        assert answer.started is not None
        assert answer.started.cached_tokens == 0


async def test_without_prefix_cache(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, prefix_cache=False) as driver:
        await driver.ask(prompt_of(50))
        answer = await driver.ask(prompt_of(50))
        assert answer.started is not None
        assert answer.started.cached_tokens == 0
        assert answer.ids == generate(model, prompt_of(50), 16)
        assert driver.stat("kv_pages_cached") == 0


async def test_chunked_prefill(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, step_tokens=8) as driver:
        running = await driver.submit(prompt_of(5, 1), tokens=60)
        await driver.until_tokens(running, 2)
        answer = await driver.ask(prompt_of(100))
        assert answer.ids == generate(model, prompt_of(100), 16)
        # 7 tokens a step beside the row that decodes.
        assert sum(step.load.pending_tokens > 0 for step in driver.steps) >= 13
        assert (await driver.answer(running)).ids == generate(model, prompt_of(5, 1), 60)


async def test_preemption_changes_no_answer(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, kv_tokens=160, prefix_cache=False) as driver:
        keys = [await driver.submit(prompt_of(20, index), tokens=60) for index in range(4)]
        for index, key in enumerate(keys):
            assert (await driver.answer(key)).ids == generate(model, prompt_of(20, index), 60), index
        assert driver.stat("preemptions") > 0
        assert driver.stat("kv_pages_used") == 0


@pytest.mark.parametrize("prefix_cache", [True, False])
async def test_choices_share_the_prompt(llama: Saved, prefix_cache: bool) -> None:
    async with Driver(llama[0], prefix_cache=prefix_cache) as driver:
        both = await driver.ask(prompt_of(40), sampling={**SAMPLED, "n": 3})
        assert driver.stat("prefix_hit_tokens") == 2 * 39
        assert driver.stat("kv_pages_copied") == 2
        assert len({tuple(ids) for ids in both.tokens.values()}) == 3
        assert both.finished is not None
        assert both.finished.completion_tokens == 3 * 16
        assert both.finished.cached_tokens == 0
        alone = await driver.ask(prompt_of(40), sampling=SAMPLED)
        assert alone.ids == both.tokens[0]


async def test_one_token_for_each_of_many_choices(llama: Saved) -> None:
    """The first choice is over, and its pages are given back, before the others begin."""
    async with Driver(llama[0], max_rows=4) as driver:
        answer = await driver.ask(prompt_of(33), tokens=1, sampling={**SAMPLED, "n": 9})
        assert [len(ids) for ids in answer.tokens.values()] == [1] * 9
        assert driver.stat("prefix_hit_tokens") == 8 * 32
        assert driver.stat("kv_pages_copied") == 8
        assert driver.stat("kv_pages_used") == 0


@pytest.mark.parametrize("length", [31, 32, 33, 40])
@pytest.mark.parametrize("max_rows", [8, 3])
async def test_eight_choices_compute_the_prompt_as_often_as_one(llama: Saved, length: int, max_rows: int) -> None:
    """Whether the prompt ends within a page or at its end, and whether all rows find a place at once or not."""
    prompt = prompt_of(length)
    async with Driver(llama[0], max_rows=max_rows) as driver:
        one = await driver.ask(prompt, tokens=10, sampling=SAMPLED, cache_salt="one")
        alone = driver.stat("prompt_tokens")
        eight = await driver.ask(prompt, tokens=10, sampling={**SAMPLED, "n": 8})
        if max_rows == 8:
            assert driver.stat("prompt_tokens") == 2 * alone
        assert eight.tokens[0] == one.ids
        resumed = await driver.ask(
            prompt,
            tokens=10,
            sampling={**SAMPLED, "n": 8},
            resume={choice: ids[:choice] for choice, ids in eight.tokens.items()},
        )
        assert resumed.tokens == {choice: ids[choice:] for choice, ids in eight.tokens.items()}
        await driver.until_idle()
    async with Driver(llama[0], packed=False) as driver:  # each row has a cache of its own
        assert (await driver.ask(prompt, tokens=10, sampling={**SAMPLED, "n": 8})).tokens == eight.tokens


async def test_sampling_is_the_same_alone_in_a_batch_and_resumed(llama: Saved) -> None:
    prompt = prompt_of(30)
    async with Driver(llama[0], max_rows=32) as driver:
        alone = (await driver.ask(prompt, tokens=12, sampling={**SAMPLED, "frequency_penalty": 0.5})).ids
        assert alone != (await driver.ask(prompt, tokens=12, sampling={**SAMPLED, "seed": 78})).ids
        await driver.submit(prompt_of(70, 5), tokens=50, sampling={**SAMPLED, "seed": 3})
        keys = [
            await driver.submit(
                prompt, tokens=12, sampling={**SAMPLED, "frequency_penalty": 0.5}, resume={0: alone[:done]}
            )
            for done in range(12)
        ]
        for done, key in enumerate(keys):
            answer = await driver.answer(key)
            assert answer.ids == alone[done:], done
            assert answer.finished is not None
            assert answer.finished.completion_tokens == 12


async def test_resume_of_choices_that_are_over(llama: Saved) -> None:
    sampling = {**SAMPLED, "n": 2}
    async with Driver(llama[0]) as driver:
        whole = await driver.ask(prompt_of(20), sampling=sampling)
        half = await driver.ask(
            prompt_of(20),
            sampling=sampling,
            resume={0: Progress(tuple(whole.tokens[0]), finished=True), 1: whole.tokens[1][:5]},
        )
        assert half.tokens == {1: whole.tokens[1][5:]}
        assert half.finished is not None
        assert half.finished.completion_tokens == 32
        # All tokens are there, only the end had not been told: it is, without a step of the model.
        ended = await driver.ask(prompt_of(20), sampling=SAMPLED, resume={0: whole.tokens[0]})
        assert (ended.tokens, ended.ends[0].reason) == ({}, FinishReason.LENGTH)


async def test_the_end_of_turn_ends_a_choice_at_once(llama: Saved) -> None:
    path, model = llama
    async with Driver(path) as driver:
        plain = generate(model, prompt_of(20), 24)
        stop_id = plain[9]
        first = plain.index(stop_id)
        answer = await driver.ask(prompt_of(20), tokens=24, sampling={"stop_token_ids": (stop_id,)})
        assert answer.ids == plain[: first + 1]
        assert (answer.ends[0].reason, answer.ends[0].stop_token_id) == (FinishReason.STOP, stop_id)
        # No step beyond the prefill and one per further token.
        assert driver.stat("output_tokens") == first + 1
        biased = {"ignore_eos": False, "logit_bias": {EOS: 100.0}}
        assert (await driver.ask(prompt_of(20), sampling=biased)).ids == [EOS]
        late = await driver.ask(prompt_of(20), sampling={**biased, "min_tokens": 3})
        assert (len(late.ids), late.ids[-1]) == (4, EOS)


async def test_stop_strings(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        printable = {token: -100.0 for token in range(320) if not 65 <= token < 91}
        whole = await driver.ask(prompt_of(20), tokens=24, sampling={"logit_bias": printable})
        stop = whole.text[0][7:9]
        cut = await driver.ask(prompt_of(20), tokens=24, sampling={"logit_bias": printable, "stop": (stop,), "n": 2})
        assert cut.text == {0: whole.text[0][: whole.text[0].index(stop)]} | {1: cut.text[1]}
        assert cut.ends[0].stop_string == stop
        assert cut.finished is not None
        assert cut.finished.completion_tokens == sum(len(ids) for ids in cut.tokens.values())
        await driver.until_idle()


async def test_logprobs(llama: Saved) -> None:
    async with Driver(llama[0]) as driver:
        answer = await driver.ask(prompt_of(20), tokens=4, output=Output(logprobs=3))
        assert [entry.token_id for entry in answer.logprobs] == answer.ids
        for entry in answer.logprobs:
            assert len(entry.top) == 3
            assert entry.top[0].token_id == entry.token_id
            assert entry.top[0].logprob == pytest.approx(entry.logprob)


async def test_text_and_chat_prompts(llama: Saved) -> None:
    path, model = llama
    chat = Chat((Message("user", ("hello",)),))
    async with Driver(path) as driver:
        ids = await driver.engine.tokenize("", chat)
        assert (await driver.ask(chat)).ids == generate(model, ids, 16)
        text = "lorem ipsum " * 10
        ids = await driver.engine.tokenize("", Text(text))
        assert await driver.engine.detokenize("", ids) == text
        assert (await driver.ask(text)).ids == generate(model, ids, 16)


async def test_credit_pauses_and_goes_on(llama: Saved) -> None:
    path, model = llama
    async with Driver(path) as driver:
        key = await driver.submit(prompt_of(20), tokens=16, credit=3)
        other = await driver.submit(prompt_of(25, 2), tokens=60)
        assert (await driver.answer(other)).ids == generate(model, prompt_of(25, 2), 60)
        assert len(driver.answers[key].ids) == 3
        assert driver.engine.load().paused == 1
        driver.engine.grant(key, 5)
        await driver.until_tokens(key, 8)
        await driver.ask(prompt_of(5, 3), tokens=4)
        assert len(driver.answers[key].ids) == 8
        driver.engine.grant(key, 100)
        assert (await driver.answer(key)).ids == generate(model, prompt_of(20), 16)


async def test_paused_rows_give_way_and_come_back(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, kv_tokens=128, prefix_cache=False) as driver:
        key = await driver.submit(prompt_of(40), tokens=30, credit=2)
        await driver.until_tokens(key, 2)
        assert (await driver.ask(prompt_of(30, 1), tokens=80)).ids == generate(model, prompt_of(30, 1), 80)
        assert driver.stat("preemptions") == 1
        driver.engine.grant(key, 100)
        assert (await driver.answer(key)).ids == generate(model, prompt_of(40), 30)


async def test_credit_of_dropped_tokens_comes_back(llama: Saved) -> None:
    """A stop string ends one choice while its next token is already computed; the other choice must not starve."""
    async with Driver(llama[0]) as driver:
        letters = {token: -100.0 for token in range(320) if not 65 <= token < 91}
        sampling = {**SAMPLED, "logit_bias": letters, "n": 2}
        whole = await driver.ask(prompt_of(20), tokens=12, sampling=sampling)
        stop = whole.text[0][2:5]
        key = await driver.submit(prompt_of(20), tokens=12, sampling={**sampling, "stop": (stop,)}, credit=1)
        answer, reported = driver.answers[key], 0
        while not answer.over.is_set():
            now = sum(len(ids) for ids in answer.tokens.values())
            if now > reported:
                driver.engine.grant(key, now - reported)
                reported = now
            await asyncio.sleep(0.001)
        assert answer.ends[0].stop_string == stop
        assert answer.finished is not None


async def test_a_tokenizer_with_more_tokens_than_the_model_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a folder got the tokenizer of another model: chats would be refused by a number that nobody sent."""
    path, _ = save(tmp_path, "Llama")
    for added in (0, VOCAB):
        auto: Any = AutoTokenizer
        tokenizer = auto.from_pretrained(path)
        tokenizer.add_tokens([f"<{number}>" for number in range(added)])
        tokenizer.save_pretrained(path)
        async with Driver(path):
            assert ("LlamaForCausalLM knows 320: texts with others are refused" in caplog.text) == bool(added)
