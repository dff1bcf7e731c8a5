"""What a key that is restricted to some models hears of all the others: nothing, wherever it looks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest

from mesh import wire
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import Alias, Share
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.component.test_gateway_classes import Classifying
from tests.component.test_gateway_keys import make_book
from tests.harness import eventually

WORDS = MeshError(ErrorKind.MODEL_NOT_FOUND, "model 'm' is not served here; this worker serves 'secret'", param="model")
MESSAGES = [{"role": "user", "content": "hi"}]
SEEN = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 3},
    "/v1/embeddings": {"input": "hi"},
    "/v1/rerank": {"query": "hi", "documents": ["a"]},
    "/v1/classify": {"input": "hi"},
    "/v1/decisions": {"input": "hi", "questions": [{"type": "predicate", "instructions": "Is it?"}]},
    "/tokenize": {"prompt": "hi"},
}


@asynccontextmanager
async def restricted(
    worker: FakeWorker, *models: str, **settings: Any
) -> AsyncGenerator[tuple[GatewayUnderTest, FakeWorker]]:
    """A gateway whose client may use these models alone."""
    book, _, headers = make_book(models=models)
    async with worker, GatewayUnderTest(book=book, **settings) as gateway:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        yield gateway, worker


def heard(response: httpx.Response) -> str:
    """All that a client hears."""
    return "\n".join([response.text, *(f"{name}: {value}" for name, value in response.headers.items())])


@pytest.mark.parametrize("path", ROUTES)
async def test_a_model_that_is_not_there_is_told_with_those_that_the_key_may_use(path: str) -> None:
    async with restricted(FakeWorker("w", models=("m", "secret")), "m", "later", "name") as (gateway, _):
        gateway.aliases.on_alias("name", Alias(model="secret"))
        response = await gateway.http.post(path, json={"model": "later", **ROUTES[path]})
    assert response.status_code == 404
    assert "the model 'later' does not exist here; served: m, name\"" in response.text
    assert "secret" not in heard(response)


async def test_the_same_for_a_response_in_the_background() -> None:
    async with restricted(FakeWorker("w", models=("m", "secret")), "m", "later") as (gateway, _):
        asked = {"model": "later", "input": "hi", "background": True}
        response = await gateway.http.post("/v1/responses", json=asked)
    assert response.status_code == 404
    assert 'served: m"' in response.text


class Refusing(FakeWorker):
    """Lets a model go in the moment that it is asked."""

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        await wire.abort(context, WORDS)
        raise AssertionError("unreachable")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_what_a_worker_says_of_its_other_models_goes_no_further(path: str) -> None:
    async with restricted(Refusing("w", models=("m", "secret")), "m") as (gateway, worker):
        worker.refusal = WORDS
        response = await gateway.http.post(path, json={"model": "m", **ROUTES[path]})
    assert response.status_code == 404
    assert "the model 'm' does not exist here; served: m\"" in response.text
    assert "secret" not in heard(response)


async def test_calls_with_one_answer_go_to_another_worker_when_one_has_let_the_model_go() -> None:
    class Counting(FakeWorker):
        async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
            return pb.TokenizeResponse(token_ids=[1])

    async with Counting("b") as other, restricted(Refusing("a"), "m") as (gateway, _):
        await gateway.add(other)
        for _ in range(4):  # either is asked first
            assert (await gateway.http.post("/tokenize", json={"model": "m", "prompt": "hi"})).status_code == 200


async def test_moderations_without_a_model_take_the_only_one_that_the_key_may_use() -> None:
    async with restricted(Classifying(models=("m", "secret")), "m") as (gateway, _):
        response = await gateway.http.post("/v1/moderations", json={"input": "hi"})
        assert (response.status_code, response.json()["model"]) == (200, "m")
    async with restricted(Classifying(models=("secret", "secret too")), "m") as (gateway, _):
        response = await gateway.http.post("/v1/moderations", json={"input": "hi"})
    assert response.status_code == 400
    assert "none is served that classifies" in response.text


async def test_a_name_does_not_tell_what_it_stands_for() -> None:
    worker = FakeWorker("w", models=("secret", "secret too"), slots=1)
    async with restricted(worker, "name", worker_ahead=0, queue_timeout=0.05) as (gateway, _):
        alias = Alias(model="gone", fallbacks=["secret"], split=[Share(model="secret too", share=0.5)])
        alias.fallback_after = 0.05
        gateway.aliases.on_alias("name", alias)
        found = await gateway.http.get("/v1/models/name")
        assert (found.json()["root"], found.json()["parent"]) == ("name", None)
        answers = [await gateway.chat(model="name", user=str(user), max_tokens=1) for user in range(8)]
        assert {answer.status_code for answer in answers} == {200}
        assert {start.request.model for start in worker.starts} == {"secret", "secret too"}
        worker.stop_after = 1
        async with gateway.http.stream("POST", "/v1/chat/completions", json=body(model="name", stream=True)) as busy:
            answers += [await gateway.chat(model="name", user=str(user)) for user in range(8)]
            assert {answer.status_code for answer in answers[8:]} == {429}
            await busy.aclose()
        gateway.aliases.on_alias("name", Alias(model="secret"))
        refused = await gateway.chat(model="name", messages=SEEN)
        assert refused.status_code == 400
        assert "the model 'name' cannot see" in refused.text
    for answer in (found, *answers, refused):
        assert "secret" not in heard(answer)
        assert "gone" not in heard(answer)


async def test_an_adapter_does_not_tell_its_model() -> None:
    class Adapted(FakeWorker):
        def record(self) -> Any:
            record = super().record()
            record.models[1].base = "secret"
            return record

    async with restricted(Adapted("w", models=("secret", "m")), "m") as (gateway, _):
        (model,) = (await gateway.http.get("/v1/models")).json()["data"]
    assert (model["id"], model["root"], model["parent"]) == ("m", "m", None)


async def test_a_lost_call_tells_no_address() -> None:
    class Breaking(FakeWorker):
        async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connect to ipv4:10.0.0.7:50051")
            raise AssertionError("unreachable")

    async with restricted(Breaking("w"), "m", max_attempts=0) as (gateway, _):
        response = await gateway.http.post("/tokenize", json={"model": "m", "prompt": "hi"})
    assert response.status_code == 502
    assert "worker 'w' was lost" in response.text
    assert "10.0.0.7" not in heard(response)


async def test_probes_need_no_key_and_name_no_worker() -> None:
    async with restricted(FakeWorker("name"), "m") as (gateway, worker):
        gateway.directory.on_state(True)
        await worker.kill()
        await eventually(lambda: not gateway.session("name"))
        del gateway.http.headers["authorization"]
        response = await gateway.http.get("/readyz")
    assert response.json()["reason"] == "no worker is live: 1 connecting"
