"""/v1/embeddings: the OpenAI SDK against it, its limits, and what happens when workers refuse, drain, hang or die."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import httpx
import openai
import pytest

from mesh import wire
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually

VECTOR = [0.25, -1.5, 3.0]


class Embedding(FakeWorker):
    """Embeds: each vector is VECTOR and the number of the input's characters or ids."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id, capabilities=(pb.CAPABILITY_CHAT, pb.CAPABILITY_RESUME, pb.CAPABILITY_EMBED))
        self.embeds: list[pb.EmbedRequest] = []
        self.embed_refusal: MeshError | None = None
        self.vectors: list[pb.Embedding] | None = None  # that it answers with, whatever it is asked
        self.gate = asyncio.Event()
        self.gate.set()
        self.ended = 0
        self.hang_up = asyncio.Event()

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        serving = asyncio.create_task(super().Session(requests, context))
        leaving = asyncio.create_task(self.hang_up.wait())
        try:
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            leaving.cancel()

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self.embeds.append(request)
        try:
            await self.gate.wait()
        finally:
            self.ended += 1
        if self.embed_refusal is not None:
            await wire.abort(context, self.embed_refusal)
        sizes = [len(each.text or each.tokens.ids) for each in request.inputs]
        vectors = [pb.Embedding(values=[*VECTOR, size]) for size in sizes]
        return pb.EmbedResponse(embeddings=vectors if self.vectors is None else self.vectors, prompt_tokens=sum(sizes))


async def ask(gateway: GatewayUnderTest, given: Any = "hi", **fields: Any) -> httpx.Response:
    return await gateway.http.post("/v1/embeddings", json={"model": "m", "input": given, **fields})


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()["error"]
    return response.status_code, body["code"], body["param"]


@pytest.mark.parametrize(
    ("given", "sizes"),
    [("four", [4]), (["a", "bcd"], [1, 3]), ([5, 6, 7], [3]), ([[5], [6, 7]], [1, 2])],
)
@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_the_sdk_gets_vectors_of_every_form_of_input(given: Any, sizes: Sequence[int], encoding: Any) -> None:
    async with Embedding("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        options: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
            found = await client.embeddings.create(model="m", input=given, user="somebody", **options)
    assert [item.index for item in found.data] == list(range(len(sizes)))
    # The SDK asks for base64 and decodes it unless it is told the format.
    vectors = [item.embedding for item in found.data]
    if encoding == "base64":
        vectors = [_decoded(cast("str", vector)) for vector in vectors]
    assert vectors == [[*VECTOR, size] for size in sizes]
    assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == ("m", sum(sizes), sum(sizes))


def _decoded(text: str) -> list[float]:
    data = base64.b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


async def test_the_body_and_what_reaches_the_worker() -> None:
    async with Embedding("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        response = await ask(gateway, ["ab"], dimensions=4, normalize=False, truncate=True)
        plain = await ask(gateway)
        assert gateway.tokens("input", "embeddings") == 4
    assert response.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [*VECTOR, 2]}],
        "model": "m",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    assert list(json.loads(response.content)) == ["object", "data", "model", "usage"]
    assert plain.is_success
    first, second = worker.embeds
    assert (first.dimensions, first.normalize, first.truncate) == (4, False, True)
    assert not any(second.HasField(name) for name in ("dimensions", "normalize"))
    assert second.request_id.startswith("req-")


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"input": []}, "input", "at least one"),
    ({"input": ""}, "input", "empty text"),
    ({"input": ["a", ""]}, "input", "at index 1"),
    ({"input": ["a", [1]]}, "input", "not a mixture"),
    ({"input": [[]]}, "input", "at least one"),
    ({"input": [-1]}, "input", "between 0 and"),
    ({"input": {"text": "a"}}, "input", "input"),
    ({"input": ["a"] * 2049}, "input", "at most 2048 inputs, not 2049"),
    ({"input": [[1] * 150_001] * 2}, "input", "at most 300000 token ids in all, not 300002"),
    ({"dimensions": 0}, "dimensions", "not 0"),
    ({"dimensions": 2**40}, "dimensions", "dimensions"),
    ({"encoding_format": "int8"}, "encoding_format", "float or base64, not 'int8'"),
    ({"task": "x"}, "task", "not a field"),
]


@pytest.mark.parametrize(("fields", "param", "words"), WRONG)
async def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, words: str) -> None:
    async with GatewayUnderTest() as gateway:
        response = await gateway.http.post("/v1/embeddings", json={"model": "m", "input": "a", **fields})
    assert error(response) == (400, "invalid_request", param)
    assert words in response.json()["error"]["message"]


async def test_models_that_are_not_there_or_do_not_embed() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        assert error(await ask(gateway)) == (400, "unsupported", "model")
        response = await gateway.http.post("/v1/embeddings", json={"model": "x", "input": "a"})
        assert error(response) == (404, "model_not_found", "model")


@pytest.mark.parametrize("kind", [ErrorKind.OVERLOADED, ErrorKind.ENGINE_FAILED])
async def test_a_refusal_is_taken_to_another_worker(kind: ErrorKind) -> None:
    async with Embedding("a") as one, Embedding("b") as other, GatewayUnderTest() as gateway:
        await gateway.add(one, other)
        one.embed_refusal = MeshError(kind, "not here")
        answers = [await ask(gateway) for _ in range(12)]
        assert all(answer.is_success for answer in answers)
        assert len(other.embeds) == 12
        assert one.embeds, "nobody asked the one that refuses"


@pytest.mark.parametrize("vectors", [[[1.0]], [[1.0]] * 3, [[1.0], []], []])
async def test_an_answer_that_lacks_vectors_is_none(vectors: list[list[float]]) -> None:
    """Which of the inputs it is for, nobody could tell."""
    async with Embedding("a") as a, Embedding("b") as b, GatewayUnderTest(max_attempts=1) as gateway:
        a.vectors = [pb.Embedding(values=each) for each in vectors]
        await gateway.add(a)
        assert error(await ask(gateway, ["x", "yz"])) == (502, "protocol_error", None)
        ranked = await gateway.http.post("/v1/rerank", json={"model": "m", "query": "x", "documents": ["y"]})
        assert error(ranked) == (502, "protocol_error", None)
        await gateway.add(b)
        for _ in range(4):
            assert len((await ask(gateway, ["x", "yz"])).json()["data"]) == 2


async def test_a_draining_worker_is_left_and_another_one_waited_for() -> None:
    async with Embedding("a") as one, Embedding("b") as other, GatewayUnderTest() as gateway:
        await gateway.add(one)
        one.embed_refusal = MeshError(ErrorKind.DRAINING, "not here")
        asked = asyncio.create_task(ask(gateway))
        await eventually(lambda: gateway.waiting)
        await gateway.add(other)
        assert (await asked).is_success
        assert (await ask(gateway)).is_success
    assert len(one.embeds) == 1


async def test_all_are_overloaded() -> None:
    async with Embedding("a") as one, Embedding("b") as other, GatewayUnderTest(queue_timeout=0.3) as gateway:
        await gateway.add(one, other)
        one.embed_refusal = MeshError(ErrorKind.OVERLOADED, "busy", retry_after=7)
        other.embed_refusal = MeshError(ErrorKind.ENGINE_FAILED, "broken")
        response = await ask(gateway)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert len(other.embeds) == 1 < len(one.embeds)  # who lacks room may have some later


async def test_the_clients_mistake_is_not_tried_elsewhere() -> None:
    async with Embedding("a") as one, Embedding("b") as other, GatewayUnderTest() as gateway:
        await gateway.add(one, other)
        refusal = MeshError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, "'inputs[0]' is too long", param="inputs")
        one.embed_refusal = other.embed_refusal = refusal
        response = await ask(gateway)
        assert error(response) == (400, "context_length_exceeded", "input")
        assert response.json()["error"]["message"] == "'input[0]' is too long"
    assert len(one.embeds) + len(other.embeds) == 1


async def test_a_killed_worker_is_replaced() -> None:
    async with Embedding("a") as one, Embedding("b") as other, GatewayUnderTest() as gateway:
        await gateway.add(one)
        one.gate.clear()
        asked = asyncio.create_task(ask(gateway))
        await eventually(lambda: one.embeds)
        await gateway.add(other)
        await one.kill()
        assert (await asked).is_success
        assert gateway.metric("mesh_gateway_attempts_total", model="m", outcome="worker_lost") == 1
        assert gateway.metric("mesh_gateway_attempts_total", model="m", outcome="finished") == 1


async def test_a_call_does_not_outlive_the_session() -> None:
    async with Embedding("a") as one, Embedding("b") as other, GatewayUnderTest() as gateway:
        await gateway.add(one)
        one.gate.clear()
        asked = asyncio.create_task(ask(gateway))
        await eventually(lambda: one.embeds)
        await gateway.add(other)
        one.hang_up.set()
        assert (await asked).is_success
        await eventually(lambda: one.ended)
    assert len(other.embeds) == 1


async def test_a_worker_that_leaves_answers_what_it_has() -> None:
    async with Embedding("a") as worker, GatewayUnderTest(grace_period=0) as gateway:
        await gateway.add(worker)
        worker.gate.clear()
        asked = asyncio.create_task(ask(gateway))
        await eventually(lambda: worker.embeds)
        gateway.directory.on_worker("a", None)
        # The directory looks ten times a second, and with the end of the session the request would go elsewhere or end.
        assert not (await asyncio.wait([asked], timeout=0.3))[0]
        worker.gate.set()
        assert (await asked).is_success


async def test_a_request_waits_for_a_worker_and_not_for_ever() -> None:
    async with Embedding("a") as worker, GatewayUnderTest(queue_timeout=0.2) as gateway:
        gateway.directory.on_worker(worker.worker_id, worker.record())
        await eventually(lambda: gateway.session("a"))
        await worker.kill()
        await eventually(lambda: not gateway.session("a"))
        assert error(await ask(gateway)) == (503, "no_worker", None)
    async with Embedding("a") as worker, GatewayUnderTest() as gateway:
        asked = asyncio.create_task(ask(gateway))
        await eventually(lambda: gateway.waiting)
        await gateway.add(worker)
        assert (await asked).is_success


async def test_a_client_that_hangs_up_ends_the_call() -> None:
    async with Embedding("a") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        worker.gate.clear()
        with pytest.raises(httpx.ReadTimeout):
            await gateway.http.post("/v1/embeddings", json={"model": "m", "input": "a"}, timeout=0.3)
        await eventually(lambda: worker.ended)
        assert all(session.embedding == 0 for session in gateway.directory.sessions())


async def test_a_worker_that_takes_too_long() -> None:
    async with Embedding("a") as one, GatewayUnderTest(embed_timeout=0.2) as gateway:
        await gateway.add(one)
        one.gate.clear()
        assert error(await ask(gateway)) == (504, "deadline_exceeded", None)
        await eventually(lambda: one.ended)


async def test_the_end_of_the_gateway_is_told() -> None:
    async with Embedding("a") as worker, GatewayUnderTest(drain_timeout=0.1) as gateway:
        await gateway.add(worker)
        worker.gate.clear()
        asked = asyncio.create_task(ask(gateway))
        await eventually(lambda: worker.embeds)
        gateway.stop.set()
        assert (await asked).status_code == 503


async def test_requests_are_spread_by_the_inputs_under_way() -> None:
    async with Embedding("a") as one, Embedding("b") as other, GatewayUnderTest() as gateway:
        await gateway.add(one, other)
        one.gate.clear()
        other.gate.clear()
        big = asyncio.create_task(ask(gateway, ["x"] * 100))
        await eventually(lambda: one.embeds or other.embeds)
        busy, idle = (one, other) if one.embeds else (other, one)
        small = [asyncio.create_task(ask(gateway)) for _ in range(8)]
        await eventually(lambda: len(idle.embeds) == 8)
        assert len(busy.embeds) == 1
        one.gate.set()
        other.gate.set()
        assert all(answer.is_success for answer in await asyncio.gather(big, *small))
