"""The official SDK's own types against the gateway's answers, with nothing converted; and its exceptions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.component.test_gateway_embeddings import Embedding
from tests.component.test_gateway_keys import make_book

# What the gateway says beyond OpenAI's API: of models, and of responses what the OpenResponses document wants.
EXTENSIONS = {"context_length", "max_model_len", "root", "parent", "capabilities"}.union(
    ("adapters", "aliases", "store", "presence_penalty", "frequency_penalty")
)


@asynccontextmanager
async def sdk(worker: FakeWorker, **settings: Any) -> AsyncGenerator[openai.AsyncOpenAI]:
    key = settings.pop("key", "none")
    async with worker, GatewayUnderTest(**settings) as gateway:
        await gateway.add(worker)
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
            yield client


def check(kind: type[BaseModel], data: bytes | str, *, also: frozenset[str] = frozenset()) -> Any:
    """The answer as the SDK's type, strictly; fails for what the type lacks, unless it is an extension or in `also`."""
    found = kind.model_validate_json(data, strict=True)
    assert unknown(found) <= EXTENSIONS | also
    # The type has told the keys apart, and lost none.
    assert json.loads(found.model_dump_json(exclude_unset=True)) == json.loads(data)
    return found


def unknown(value: object) -> set[str]:
    """Names of fields, at any depth, that the types do not have."""
    if isinstance(value, BaseModel):
        own = set(value.model_extra or ())
        return own.union(*(unknown(getattr(value, name)) for name in type(value).model_fields))
    if isinstance(value, list):
        return set[str]().union(*map(unknown, cast("list[object]", value)))
    return set()


async def test_answers_in_one_piece() -> None:
    async with sdk(FakeWorker("w")) as client:
        chat: Any = client.chat.completions.with_raw_response
        raw = await chat.create(**body(n=2, max_tokens=3))
        answer = check(ChatCompletion, raw.content)
        assert answer.usage.completion_tokens_details.reasoning_tokens == 0
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        raw = await chat.create(**body(logprobs=True, top_logprobs=0))
        assert len(check(ChatCompletion, raw.content).choices[0].logprobs.content) == 12
        raw = await client.completions.with_raw_response.create(model="m", prompt=["a", "b"], max_tokens=3, logprobs=0)
        assert [choice.index for choice in check(Completion, raw.content).choices] == [0, 1]
        raw = await client.models.with_raw_response.retrieve("m")
        assert check(Model, raw.content).id == "m"
        listed = await client.models.with_raw_response.list()
        for each in json.loads(listed.content)["data"]:
            check(Model, json.dumps(each))
        assert raw.headers["x-request-id"]


async def test_vectors() -> None:
    async with sdk(Embedding("w")) as client:
        raw = await client.embeddings.with_raw_response.create(model="m", input=["a"], encoding_format="float")
        assert check(CreateEmbeddingResponse, raw.content).data[0].index == 0


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_every_chunk_of_a_stream(path: str) -> None:
    asked = body(stream_options={"include_usage": True}, stream=True, logprobs=True, n=2)
    kind: type[BaseModel] = ChatCompletionChunk
    if path == "completions":
        asked = {**asked, "prompt": "a", "logprobs": 0}
        del asked["messages"]
        kind = Completion
    async with sdk(FakeWorker("w")) as client:
        text = (await client.post(f"/{path}", cast_to=str, body=asked)).strip()
    *events, done = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert done == "[DONE]"
    if kind is Completion:
        # The type has no chunks of its own: it lacks the null that ends no choice yet.
        events = [event.replace('"finish_reason":null', '"finish_reason":"stop"') for event in events]
    chunks = [check(kind, event) for event in events]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens > 0


async def test_calls_of_tools() -> None:
    worker = FakeWorker("w")
    worker.script = ["<tool_call>", '{"name": "f", "arguments": {"a": 1}}', "</tool_call>"]
    worker.markup = pb.Markup(tool_parser="hermes")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with sdk(worker) as client:
        chat: Any = client.chat.completions.with_raw_response
        raw = await chat.create(**body(tools=tools))
    (choice,) = check(ChatCompletion, raw.content).choices
    assert (choice.finish_reason, choice.message.tool_calls[0].function.name) == ("tool_calls", "f")


async def test_errors_come_as_the_exceptions_that_programs_catch() -> None:
    book, _, headers = make_book(models=("m", "x"))
    key = headers["authorization"].removeprefix("Bearer ")
    worker = FakeWorker("w")
    async with sdk(worker, book=book, key=key, queue_timeout=0.1) as client:
        create: Any = client.chat.completions.create

        async def caught(**fields: Any) -> openai.APIStatusError:
            with pytest.raises(openai.APIStatusError) as error:
                await create(**body(**fields))
            assert error.value.request_id
            return error.value

        found = [await caught(temperature=3), await caught(model="x"), await caught(model="y")]
        worker.refusal = MeshError(ErrorKind.OVERLOADED, "no room")
        found.append(await caught())
        client.api_key = "wrong"
        found.append(await caught())
    kinds = (
        openai.BadRequestError,
        openai.NotFoundError,
        openai.PermissionDeniedError,
        openai.RateLimitError,
        openai.AuthenticationError,
    )
    assert [type(error) for error in found] == list(kinds)
    assert [error.param for error in found] == ["temperature", "model", "model", None, None]
    assert all(isinstance(error.code, str) for error in found)


async def test_an_error_within_a_stream_is_raised() -> None:
    worker = FakeWorker("w")
    async with sdk(worker, queue_timeout=0.1) as client:
        create: Any = client.chat.completions.create
        stream = await create(**body(stream=True, max_tokens=1000))
        await anext(stream)
        await worker.kill()
        with pytest.raises(openai.APIError) as caught:
            await _read(stream)
    assert caught.value.code == "worker_lost"


async def _read(stream: Any) -> None:
    async for _ in stream:
        pass
