"""Keys at the gateway's door: who is let in, with which models, how often, and what the answer says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import openai
import pytest

from gateway.access.book import Book
from mesh.keys import Key, Usage, new_key
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import PROMPT_TOKENS, FakeWorker
from tests.harness import eventually


def make_book(**limits: Any) -> tuple[Book, Key, dict[str, str]]:
    """A book with one key, and the headers of a request that brings it."""
    key, text = new_key("test", **limits)
    return make_book_of(key), key, {"authorization": f"Bearer {text}"}


def make_book_of(key: Key) -> Book:
    """Another gateway's book with the same key."""
    book = Book()
    book.on_key(key.id, key)
    book.on_loaded()
    return book


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()["error"]


async def test_every_route_but_the_open_ones_needs_a_key() -> None:
    book, _, _ = make_book()
    async with GatewayUnderTest(book=book) as gateway:
        assert (await gateway.http.get("/healthz")).status_code == 200
        assert (await gateway.http.get("/readyz")).status_code == 503
        for path in ("/v1/models", "/v1/models/m", "/metrics", "/v1/chat/completions", "/nowhere", "/healthz/"):
            refused = await gateway.http.get(path)
            found = error(refused, 401)
            assert (found["type"], found["code"]) == ("invalid_request_error", "invalid_api_key"), path
            assert refused.headers["www-authenticate"] == "Bearer"
        assert error(await gateway.chat(), 401)["message"].startswith("an API key is needed")


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_both_ways_to_bring_a_key(name: str) -> None:
    book, key, headers = make_book()
    text = headers["authorization"].removeprefix("Bearer ")
    async with GatewayUnderTest(book=book) as gateway:
        given = {name: f"bearer {text}" if name == "authorization" else text}
        assert (await gateway.http.get("/v1/models", headers=given)).status_code == 200
        wrong = {name: given[name][:-1] + ("a" if text[-1] != "a" else "b")}
        assert error(await gateway.http.get("/v1/models", headers=wrong), 401)["message"] == (
            "the API key is not valid here"
        )
        book.on_key(key.id, None)
        assert error(await gateway.http.get("/v1/models", headers=given), 401)["code"] == "invalid_api_key"


async def test_until_the_keys_are_read_nobody_is_let_in_and_nobody_is_told_that_a_key_is_bad() -> None:
    book, _, headers = make_book()
    book.loaded = False
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        gateway.directory.on_state(True)
        assert error(await gateway.http.get("/v1/models", headers=headers), 503)["code"] == "no_worker"
        assert "API keys" in (await gateway.http.get("/readyz")).json()["reason"]
        book.on_loaded()
        assert (await gateway.http.get("/v1/models", headers=headers)).status_code == 200
        assert (await gateway.http.get("/readyz")).status_code == 200


async def test_an_expired_key_says_so() -> None:
    book, key, headers = make_book(expires="1m")
    assert key.expires_at is not None
    book.on_key(key.id, msgspec.structs.replace(key, expires_at=key.created_at))
    async with GatewayUnderTest(book=book) as gateway:
        assert "has expired" in error(await gateway.http.get("/v1/models", headers=headers), 401)["message"]


async def test_a_key_sees_and_uses_its_own_models_alone() -> None:
    book, _, headers = make_book(models=("m", "later"))
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1", models=("m", "other")) as worker:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        assert [each["id"] for each in (await gateway.http.get("/v1/models")).json()["data"]] == ["m"]
        assert error(await gateway.http.get("/v1/models/other"), 404)["code"] == "model_not_found"
        assert (await gateway.chat(max_tokens=2)).status_code == 200
        found = error(await gateway.chat(model="other"), 403)
        assert (found["type"], found["code"], found["param"]) == ("permission_error", "forbidden", "model")
        assert found["message"] == "this key may not use the model 'other'; it may use: m, later"
        unknown = error(await gateway.chat(model="no such"), 403)
        assert unknown["message"] == found["message"].replace("'other'", "'no such'")
        for path, fields in (("completions", {"prompt": "x"}), ("embeddings", {"input": "x"})):
            refused = await gateway.http.post(f"/v1/{path}", json={"model": "other", **fields})
            assert error(refused, 403)["code"] == "forbidden"
        assert len(worker.starts) == 1


async def test_requests_a_minute_and_the_headers_that_tell() -> None:
    book, _, headers = make_book(requests_per_minute=2, tokens_per_minute=1000)
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        first = await gateway.chat(max_tokens=4)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        assert first.headers["x-ratelimit-remaining-tokens"] == str(1000 - PROMPT_TOKENS - 4)
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        await gateway.chat(max_tokens=4)
        refused = await gateway.chat(max_tokens=4)
        found = error(refused, 429)
        assert (found["type"], found["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert found["message"].startswith("this key may make 2 requests a minute")
        assert 0 < int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        # Looking at the models is no request of that kind.
        assert (await gateway.http.get("/v1/models")).status_code == 200


async def test_tokens_a_minute_are_those_of_prompt_and_answer() -> None:
    book, key, headers = make_book(tokens_per_minute=PROMPT_TOKENS + 6)
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        assert (await gateway.chat(max_tokens=6)).status_code == 200
        assert book.accounts[key.id].used == Usage(1, PROMPT_TOKENS + 6)
        assert "tokens a minute" in error(await gateway.chat(max_tokens=6), 429)["message"]


async def test_a_stream_counts_until_its_last_byte_and_one_that_is_hung_up_no_longer() -> None:
    book, key, headers = make_book(concurrency=1)
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1", length=10**6) as worker:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        async with gateway.http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
            await anext(response.aiter_lines())
            refused = error(await gateway.chat(), 429)
            assert refused["message"] == "this key may have 1 requests under way at a time, and has 1"
        await eventually(lambda: not book.accounts[key.id].live)
        assert book.accounts[key.id].used.tokens > PROMPT_TOKENS


async def test_a_spent_budget_is_final_and_the_sdk_does_not_try_again() -> None:
    book, key, headers = make_book(token_budget=PROMPT_TOKENS + 1)
    text = headers["authorization"].removeprefix("Bearer ")
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=text, max_retries=3) as client:
            await client.chat.completions.create(**body(max_tokens=4))
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(**body())
        assert caught.value.code == caught.value.type == "insufficient_quota"
        assert book.accounts[key.id].used.requests == 1
        assert gateway.metric("mesh_gateway_requests_total", route="/v1/chat/completions", model="", status="429") == 1


async def test_metrics_need_a_key_that_may_read_them_unless_the_route_is_open() -> None:
    book, _, headers = make_book()
    reader, text = new_key("prometheus", metrics=True)
    book.on_key(reader.id, reader)
    async with GatewayUnderTest(book=book) as gateway:
        assert error(await gateway.http.get("/metrics", headers=headers), 403)["code"] == "forbidden"
        assert (await gateway.http.get("/metrics", headers={"x-api-key": text})).status_code == 200
    async with GatewayUnderTest(book=book, open_routes=("/healthz", "/metrics")) as gateway:
        assert (await gateway.http.get("/metrics")).status_code == 200
        assert (await gateway.http.get("/readyz")).status_code == 401


@pytest.mark.parametrize("shared", [False, True])
async def test_keys_share_cached_prefixes_only_where_that_is_allowed(shared: bool) -> None:
    book, key, headers = make_book()
    async with GatewayUnderTest(book=book, share_prefix_cache=shared) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        await gateway.chat(max_tokens=2)
        await gateway.http.post("/v1/completions", json={"model": "m", "prompt": ["a", "b"], "max_tokens": 2})
        assert [start.request.tenant for start in worker.starts] == ["" if shared else key.id] * 3


async def test_a_key_may_be_held_to_a_priority() -> None:
    book, _, headers = make_book(priority=5)
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        found = error(await gateway.chat(priority=4), 403)
        assert (found["message"], found["param"]) == (
            "'priority' must be at least 5 with this key, not 4; lower is served earlier",
            "priority",
        )
        for allowed in ({"priority": 6}, {"priority": 5}, {}):
            assert (await gateway.chat(max_tokens=2, **allowed)).status_code == 200


async def test_without_keys_nothing_is_asked_and_nothing_told() -> None:
    async with GatewayUnderTest() as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        answer = await gateway.chat(max_tokens=2)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
        assert worker.starts[0].request.tenant == ""


async def test_many_at_once_are_counted_one_by_one() -> None:
    book, key, headers = make_book(requests_per_minute=5)
    async with GatewayUnderTest(book=book) as gateway, FakeWorker("w1", slots=32) as worker:
        await gateway.add(worker)
        gateway.http.headers.update(headers)
        answers = await asyncio.gather(*(gateway.chat(max_tokens=2) for _ in range(12)))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 7
        await eventually(lambda: not book.accounts[key.id].live)
