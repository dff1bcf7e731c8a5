"""The text completion API end to end: OpenAI's SDK in, gRPC sessions out, over real sockets."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import openai
import pytest

from mesh.errors import out_of_range
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import SECOND_CHOICE_ENDS, FakeWorker, text_of_tokens, token_at
from tests.harness import eventually

LENGTH = 12


def sdk(gateway: GatewayUnderTest) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30)


def expected(length: int = LENGTH, choice: int = 0) -> str:
    return text_of_tokens([token_at(7, choice, position) for position in range(length)])


async def in_one_piece(gateway: GatewayUnderTest, **fields: Any) -> Any:
    client: Any = sdk(gateway)
    async with client:
        return await client.completions.create(**body(**fields))


async def streamed(gateway: GatewayUnderTest, **fields: Any) -> tuple[dict[int, str], dict[int, str], Any]:
    """Text and finish reason of every choice, and the usage."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage: Any = None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    client: Any = sdk(gateway)
    async with client:
        async for chunk in await client.completions.create(**body(**options, **fields)):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "seed": 7, "max_tokens": LENGTH, **fields}


PROMPTS: dict[str, tuple[Any, list[Any]]] = {
    "text": ("hi", ["hi"]),
    "texts": (["a", "b", "c"], ["a", "b", "c"]),
    "token ids": ([1, 2], [[1, 2]]),
    "lists of token ids": ([[1], [2, 3]], [[1], [2, 3]]),
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("prompt", "sent"), PROMPTS.values(), ids=PROMPTS.keys())
async def test_every_prompt_gets_its_choices_in_order(prompt: Any, sent: list[Any], n: int) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        whole = await in_one_piece(gateway, prompt=prompt, n=n)
        requests = [start.request for start in worker.starts]
        texts, reasons, usage = await streamed(gateway, prompt=prompt, n=n)
    assert [each.text if each.HasField("text") else list(each.tokens.ids) for each in requests] == sent
    of_one = [expected(), expected(SECOND_CHOICE_ENDS, 1)][:n]
    assert [choice.text for choice in whole.choices] == of_one * len(sent)
    assert [choice.index for choice in whole.choices] == list(range(len(sent) * n))
    assert [choice.finish_reason for choice in whole.choices] == ["length", "stop"][:n] * len(sent)
    assert whole.usage.prompt_tokens == 5 * len(sent)
    assert whole.usage.completion_tokens == (LENGTH + (SECOND_CHOICE_ENDS if n == 2 else 0)) * len(sent)
    assert whole.id.startswith("cmpl-")
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage


async def test_prompts_run_side_by_side() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        worker.stop_after = 3
        answer = asyncio.create_task(streamed(gateway, prompt=["a", "b", "c"]))
        await eventually(lambda: len(worker.rows) == 3)
        worker.stop_after = None
        assert list((await answer)[0].values()) == [expected()] * 3


async def test_echo_and_the_default_length() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        whole = await in_one_piece(gateway, prompt=["Hé ", "b"], echo=True, max_tokens=None)
        texts, _, _ = await streamed(gateway, prompt=["Hé ", "b"], echo=True, max_tokens=None)
    assert [choice.text for choice in whole.choices] == [f"Hé {expected(16)}", f"b{expected(16)}"]
    assert [texts[0], texts[1]] == [choice.text for choice in whole.choices]


async def test_log_probabilities_have_the_older_form() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        whole = await in_one_piece(gateway, prompt="a", logprobs=0)
    found = whole.choices[0].logprobs
    assert "".join(found.tokens) == whole.choices[0].text
    assert [len(each) for each in (found.token_logprobs, found.top_logprobs, found.text_offset)] == [LENGTH] * 3
    assert found.text_offset[1] == len(found.tokens[0])


async def test_log_probabilities_of_the_prompt() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        prompts = ["Hé ", "b"]
        fields: dict[str, Any] = {"prompt": prompts, "n": 2, "echo": True, "logprobs": 0}
        whole = await in_one_piece(gateway, **fields, extra_body={"prompt_logprobs": 0})
        client: Any = sdk(gateway)
        async with client:
            stream = await client.completions.create(**body(stream=True, **fields))
            chunks: list[Any] = [choice async for chunk in stream for choice in chunk.choices if choice.logprobs]
    for choice in whole.choices:
        index: int = choice.index
        prompt = prompts[index // 2]
        own = [each.logprobs for each in chunks if each.index == index]
        assert choice.logprobs.tokens[: len(prompt)] == list(prompt)
        assert choice.logprobs.token_logprobs[: len(prompt)] == [None, *(-place for place in range(1, len(prompt)))]
        assert "".join(choice.logprobs.tokens) == choice.text
        assert [each for part in own for each in part.token_logprobs] == choice.logprobs.token_logprobs
        found = choice.prompt_logprobs
        assert found[0] is None
        assert [each["decoded_token"] for entry in found[1:] for each in entry.values()] == list(prompt[1:])


@pytest.mark.parametrize("after", range(LENGTH))
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a", "n": 2},
        {"prompt": ["a", "b"]},
        {"prompt": "a", "echo": True},
        {"prompt": "abc", "echo": True, "logprobs": 0},
    ],
)
async def test_a_killed_worker_is_not_noticed(after: int, fields: dict[str, Any]) -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after = after
        await gateway.add(a)
        answer = asyncio.create_task(streamed(gateway, **fields))
        await eventually(lambda: any(len(row.tokens[0]) >= after for row in a.rows.values()))
        await gateway.add(b)
        await a.kill()
        texts = await answer
        assert texts == await streamed(gateway, **fields)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_leaves_nothing(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway.exchange")
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        before = len(asyncio.all_tasks())
        worker.stop_after = 4
        ask = streamed if stream else in_one_piece
        answer = asyncio.create_task(ask(gateway, prompt=["a", "b", "c"]))
        await eventually(lambda: len(worker.rows) == 3 and any(len(row.tokens[0]) == 4 for row in worker.rows.values()))
        answer.cancel()
        await eventually(lambda: len(worker.cancels) == 3)
        await eventually(lambda: not worker.rows and not gateway.exchanges.live)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
    [facts] = [vars(record) for record in caplog.records if "/v1/completions" in str(vars(record))]
    assert "499" in str(facts)


async def test_a_drain_that_takes_too_long_ends_all_prompts() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest(drain_timeout=0.3) as gateway:
        await gateway.add(worker)
        worker.stop_after = 4
        answer = asyncio.create_task(streamed(gateway, prompt=["a", "b"]))
        await eventually(lambda: len(worker.rows) == 2)
        gateway.stop.set()
        with pytest.raises(openai.APIError) as caught:
            await answer
        assert caught.value.code == "draining"
        await eventually(lambda: not worker.rows)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
async def test_errors_before_the_first_token_have_their_own_status(stream: bool, prompt: Any) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        with pytest.raises(openai.NotFoundError):
            await in_one_piece(gateway, prompt=prompt, model="nope", stream=stream)
        with pytest.raises(openai.BadRequestError) as caught:
            await in_one_piece(gateway, prompt=prompt, suffix="x", stream=stream)
        assert (caught.value.param, worker.starts) == ("suffix", [])
        await eventually(lambda: not gateway.exchanges.live)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_worker_refuses_the_prompts(stream: bool) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        worker.refusal = out_of_range("tokens", 9999, 0, 999)
        with pytest.raises(openai.BadRequestError, match="9999"):
            await in_one_piece(gateway, prompt=[[1], [9999]], stream=stream)
        await eventually(lambda: not worker.rows and not gateway.exchanges.live)
        assert [len(session) for session in gateway.directory.sessions()] == [0]


async def test_many_prompts_without_a_worker_are_told_once() -> None:
    async with GatewayUnderTest(queue_limit=1) as gateway, FakeWorker("w") as worker:
        await gateway.add(worker)
        await worker.kill()
        await eventually(lambda: not gateway.session("w"))
        with pytest.raises(openai.InternalServerError) as caught:
            await in_one_piece(gateway, prompt=["a", "b", "c"])
        assert caught.value.code == "no_worker"
        await eventually(lambda: gateway.waiting == 0)
