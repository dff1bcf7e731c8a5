"""Names that stand for models: where their requests go, what clients are told of it, and copies that nobody notices."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from mesh.errors import ErrorKind, MeshError
from mesh.v1.registry_pb2 import Alias, Share
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.component.test_gateway_keys import make_book
from tests.harness import eventually

CHAT = "/v1/chat/completions"


def told(response: httpx.Response) -> tuple[Any, ...]:
    """Status, the model by the body, and the headers about it."""
    assert response.status_code == 200, response.text
    headers = response.headers
    return response.json()["model"], headers.get("x-mesh-model"), headers.get("x-mesh-fallback")


async def test_a_name_stands_for_a_model_in_every_api() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        gateway.aliases.on_alias("gpt-4o", Alias(model="m"))
        assert told(await gateway.chat(model="gpt-4o")) == ("gpt-4o", "m", None)
        assert told(await gateway.chat()) == ("m", None, None)
        completion = {"model": "gpt-4o", "prompt": ["a", "b"]}
        assert told(await gateway.http.post("/v1/completions", json=completion)) == ("gpt-4o", "m", None)
        streamed = await gateway.http.post(CHAT, json=body(model="gpt-4o", stream=True))
        assert (streamed.headers["x-mesh-model"], '"model":"gpt-4o"' in streamed.text) == ("m", True)
        assert {start.request.model for start in worker.starts} == {"m"}
        named = gateway.metric("mesh_gateway_alias_requests_total", alias="gpt-4o", model="m", how="named")
        assert named == 3
        listed = (await gateway.http.get("/v1/models/gpt-4o")).json()
        assert (listed["id"], listed["root"], listed["context_length"]) == ("gpt-4o", "m", 4096)
        assert (await gateway.http.get("/v1/models/m")).json()["aliases"] == ["gpt-4o"]


async def test_without_a_worker_the_next_model_answers_at_once() -> None:
    async with FakeWorker("w", models=("small",)) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        gateway.aliases.on_alias("m", Alias(model="m", fallbacks=["none", "small"]))
        assert told(await gateway.chat()) == ("m", "small", "m; no_worker")
        gateway.aliases.on_alias("m", None)
        assert (await gateway.chat()).status_code == 404


async def test_without_room_the_next_model_answers_in_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway.exchange")
    async with (
        FakeWorker("w1", slots=1) as busy,
        FakeWorker("w2", models=("small",)) as spare,
        GatewayUnderTest(worker_ahead=0) as gateway,
    ):
        await gateway.add(busy, spare)
        gateway.aliases.on_alias("a", Alias(model="m", fallbacks=["small"], fallback_after=0.05))
        busy.stop_after = 1
        async with gateway.http.stream("POST", CHAT, json=body(stream=True, max_tokens=5)) as first:
            pass_by = await gateway.chat(model="a")
            assert told(pass_by) == ("a", "small", "m; overloaded")
            assert not gateway.waiting
            await first.aclose()
        busy.stop_after = None

        async def back() -> bool:
            return told(await gateway.chat(model="a")) == ("a", "m", None)

        await eventually(back)  # with the next report of its load
    logged: list[dict[str, Any]] = [getattr(record, "facts", {}) for record in caplog.records]
    line = next(facts for facts in logged if "why" in facts)
    assert (line["alias"], line["model"], line["instead_of"], line["why"]) == ("a", "small", "m", "overloaded")


async def test_an_error_of_another_kind_stays_an_error() -> None:
    async with FakeWorker("w1") as worker, FakeWorker("w2", models=("small",)) as other, GatewayUnderTest() as gateway:
        await gateway.add(worker, other)
        gateway.aliases.on_alias("m", Alias(model="m", fallbacks=["small"]))
        worker.refusal = MeshError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, "too long")
        assert (await gateway.chat()).status_code == 400
        assert not other.starts


async def test_a_split_keeps_a_user_with_one_model() -> None:
    async with FakeWorker("w", models=("m", "b")) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        gateway.aliases.on_alias("a", Alias(model="m", split=[Share(model="b", share=0.5)]))

        async def served(user: str) -> set[str]:
            answers = [await gateway.chat(model="a", user=user, max_tokens=1) for _ in range(3)]
            return {answer.headers["x-mesh-model"] for answer in answers}

        found = [await served(str(user)) for user in range(12)]
    assert all(len(models) == 1 for models in found)
    assert set.union(*found) == {"m", "b"}


async def test_a_copy_is_counted_and_dropped_and_nobody_waits_for_it() -> None:
    async with FakeWorker("w1") as worker, FakeWorker("w2", models=("b",)) as second, GatewayUnderTest() as gateway:
        await gateway.add(worker, second)
        gateway.aliases.on_alias("a", Alias(model="m", shadows=[Share(model="b", share=1)]))
        second.stalled = True
        plain = (await gateway.chat(max_tokens=4)).json()["choices"]
        shadowed = await gateway.chat(model="a", max_tokens=4)
        assert shadowed.json()["choices"] == plain  # and it is here while the copy stands still
        second.stalled = False

        def spent(kind: str) -> float:
            labels = {"gen_ai_operation_name": "shadow", "gen_ai_request_model": "b", "gen_ai_token_type": kind}
            return gateway.metric("gen_ai_client_token_usage_sum", **labels)

        await eventually(lambda: spent("output") == 4)
        assert spent("input") == 5
        assert [start.request.model for start in second.starts] == ["b"]
        assert gateway.metric("mesh_gateway_shadows_total", alias="a", model="b", outcome="begun") == 1
        await second.kill()
        await eventually(lambda: not gateway.session("w2"))
        assert (await gateway.chat(model="a")).status_code == 200
        assert gateway.metric("mesh_gateway_shadows_total", alias="a", model="b", outcome="no_worker") == 1


async def test_a_key_is_asked_for_the_name_that_the_request_uses() -> None:
    book, _, headers = make_book(models=("a",))
    async with FakeWorker("w") as worker, GatewayUnderTest(book=book) as gateway:
        await gateway.add(worker)
        gateway.aliases.on_alias("a", Alias(model="m"))
        allowed = await gateway.http.post(CHAT, json=body(model="a"), headers=headers)
        assert told(allowed) == ("a", None, None), "of the model it hears nothing"
        assert (await gateway.http.post(CHAT, json=body(), headers=headers)).status_code == 403
        shown = (await gateway.http.get("/v1/models", headers=headers)).json()["data"]
        assert [model["id"] for model in shown] == ["a"]


async def test_who_comes_back_gets_the_rest_from_the_model_that_began() -> None:
    wish = {"x-mesh-reconnect": "1"}
    first, other = FakeWorker("w1", fingerprint="sha256:11"), FakeWorker("w2", models=("b",), fingerprint="sha256:22")
    async with first, other, GatewayUnderTest() as gateway:
        await gateway.add(first, other)
        gateway.aliases.on_alias("a", Alias(model="b"))
        whole = (await gateway.http.post(CHAT, json=body(model="a", stream=True), headers=wish)).text
        events = whole.split("\n\n")
        gateway.aliases.on_alias("a", Alias(model="m", fallbacks=["b"]))
        last = events[3].splitlines()[0].removeprefix("id: ")
        rest = await gateway.http.post(CHAT, json=body(model="a", stream=True), headers={**wish, "Last-Event-ID": last})
        assert rest.headers["x-mesh-model"] == "b"
    data = [[line for line in event.splitlines() if line.startswith("data:")] for event in events]
    assert [[line for line in event.splitlines() if line.startswith("data:")] for event in rest.text.split("\n\n")] == (
        data[4:]
    )
