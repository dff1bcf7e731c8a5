"""The HTTP surface: errors in OpenAI's envelope, limits, models, health, headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mesh.version import version
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker, text_of_tokens, token_at
from tests.harness import eventually

CHAT = "/v1/chat/completions"


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The envelope's content; fails if it is no envelope."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    found = response.json()
    assert list(found) == ["error"]
    assert list(found["error"]) == ["message", "type", "param", "code"]
    return found["error"]


async def test_an_answer_in_one_piece() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        worker.cached = 3
        await gateway.add(worker)
        response = await gateway.chat(n=2, max_tokens=5, logprobs=True)
    found = response.json()
    assert list(found) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert (found["object"], found["model"]) == ("chat.completion", "m")
    for index, choice in enumerate(found["choices"]):
        text = text_of_tokens([token_at(7, index, position) for position in range(5)])
        assert choice["index"] == index
        assert list(choice["message"].items()) == [("role", "assistant"), ("content", text), ("refusal", None)]
        assert choice["finish_reason"] == "length"
        assert len(choice["logprobs"]["content"]) == 5
    assert found["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 10,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


@pytest.mark.parametrize(
    ("path", "meant"),
    [("/chat/completions", CHAT), ("/v1/v1/messages", "/v1/messages"), ("/models/m", ""), ("/v1/nope", "")],
)
async def test_a_base_url_without_v1_or_with_two_is_told_the_route_that_there_is(path: str, meant: str) -> None:
    async with GatewayUnderTest() as gateway:
        error = error_of(await gateway.http.post(path, json={}))
    assert error["code"] == "unknown_url"
    assert (f"; is {meant} meant?" in error["message"]) if meant else error["message"].endswith(path)


async def test_headers_of_a_stream_and_of_every_answer() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        mine = {"x-request-id": "mine-1"}
        streamed = await gateway.http.post(CHAT, json=body(stream=True), headers=mine)
        first, second = (
            await gateway.chat(),
            await gateway.http.get("/v1/models", headers={"x-request-id": "not mine"}),
        )
        assert [start.request.request_id for start in worker.starts] == ["mine-1", first.headers["x-request-id"]]
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert streamed.headers["cache-control"] == "no-cache"
    assert streamed.headers["x-accel-buffering"] == "no"
    assert streamed.headers["x-request-id"] == "mine-1"
    assert len({"mine-1", "not mine", first.headers["x-request-id"], second.headers["x-request-id"]}) == 4


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "unknown_url"),
        ("GET", "/v1/completions", 405, "method_not_supported"),
        ("POST", "/v1/models", 405, "method_not_supported"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
    ],
)
async def test_wrong_ways(method: str, path: str, status: int, code: str) -> None:
    async with GatewayUnderTest() as gateway:
        response = await gateway.http.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("HEAD", "/", 200, None),
        ("HEAD", "/version", 200, None),
        ("HEAD", "/healthz", 200, None),
        ("HEAD", "/v1/models", 200, None),
        ("HEAD", "/v1", 404, None),
        ("HEAD", "/v1/completions", 405, {"POST", "OPTIONS"}),
        ("OPTIONS", "/v1/completions", 200, {"POST", "OPTIONS"}),
        ("OPTIONS", "/v1/models", 200, {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_head_and_options(method: str, path: str, status: int, allow: set[str] | None) -> None:
    async with GatewayUnderTest() as gateway:
        response = await gateway.http.request(method, path)
    assert response.status_code == status
    assert not response.content
    assert allow is None or set(response.headers["allow"].split(", ")) == allow


async def test_the_version_is_told() -> None:
    async with GatewayUnderTest() as gateway:
        assert (await gateway.http.get("/version")).json() == {"version": version()}


async def test_every_answer_says_how_long_it_took() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest(max_body_bytes=10_000) as gateway:
        await gateway.add(worker)
        answers = [
            await gateway.chat(),
            await gateway.chat(stream=True),
            await gateway.http.get("/nope"),
            await gateway.http.post(CHAT, content=b"x" * 10_001),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 413]
    for answer in answers:
        assert answer.headers["openai-processing-ms"].isdigit()
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, b"{}"),
        ({}, b"{}"),
        ({"content-type": "application/json", "content-encoding": "br"}, b"{}"),
        ({"content-type": "application/json", "content-encoding": "gzip, gzip"}, b"{}"),
    ],
    ids=["form", "none", "brotli", "twice"],
)
async def test_other_content_types_are_refused(headers: dict[str, str], content: bytes) -> None:
    async with GatewayUnderTest() as gateway:
        response = await gateway.http.post(CHAT, content=content, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "param", "code"),
    [
        (b"{", "body", "invalid_request"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', "body", "invalid_request"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}', "body", "invalid_request"),
        (b'{"model": "x", "messages": [], "model": "m"}', "model", "invalid_request"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "a", "role": "user"}]}', "role", "invalid_request"),
        (json.dumps(body(metadata={})).encode()[:-2] + b'"a": "1", "a": "2"}}', "a", "invalid_request"),
        (json.dumps(body(temperature=3)).encode(), "temperature", "invalid_request"),
        (json.dumps(body(tools=[])).encode(), "tools", "invalid_request"),
    ],
)
async def test_bad_bodies_are_refused_without_asking_a_worker(content: bytes, param: str, code: str) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        response = await gateway.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert worker.starts == []
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


async def test_an_announced_body_over_the_limit_is_refused_unread() -> None:
    async with GatewayUnderTest(max_body_bytes=10_000) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)  # although no byte of the body was sent
        assert head.startswith(b"HTTP/1.1 413 ")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        error = json.loads(await reader.readexactly(length))["error"]
        writer.close()
    assert error["code"] == "payload_too_large"
    assert "10000" in error["message"]


async def test_a_client_that_sends_too_much_reads_why() -> None:
    async with GatewayUnderTest(max_body_bytes=10_000) as gateway:
        response = await gateway.http.post(CHAT, content=b"x" * 5_000_000)
        assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")
        assert response.headers["connection"] == "close"


async def test_a_body_of_unknown_length_is_cut_at_the_limit() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async with GatewayUnderTest(max_body_bytes=10_000) as gateway:
        headers = {"content-type": "application/json"}
        response = await gateway.http.post(CHAT, content=endless(), headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("stream", [True, False])
async def test_what_nobody_foresaw_is_logged_once_and_told_without_details(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        worker.stalled = True
        asked = asyncio.create_task(gateway.chat(stream=stream))
        await eventually(lambda: worker.rows)
        gateway.exchanges.abort(IndexError("no such thing"))  # pyright: ignore[reportArgumentType]
        response = await asked
        await eventually(lambda: not worker.rows and not gateway.exchanges.live)
    assert response.status_code == 500
    assert error_of(response)["code"] == "engine_failed"
    assert "no such thing" not in response.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.name == "gateway.errors"


async def test_models() -> None:
    async with (
        FakeWorker("a", models=("m", "org/name")) as a,
        FakeWorker("b", models=("m",)) as b,
        GatewayUnderTest() as gateway,
    ):
        await gateway.add(a, b)
        listed = (await gateway.http.get("/v1/models")).json()
        one = (await gateway.http.get("/v1/models/org/name")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["m", "org/name"]
    assert one == {
        "id": "org/name",
        "created": 1_700_000_000,
        "context_length": 4096,
        "max_model_len": 4096,
        "root": "org/name",
        "parent": None,
        "capabilities": ["chat", "completion", "constraint", "logprobs", "prompt_logprobs", "resume", "tools"],
        "adapters": [],
        "aliases": [],
        "object": "model",
        "owned_by": "inference-mesh",
    }


async def test_readiness_says_what_is_missing() -> None:
    async def reason(gateway: GatewayUnderTest, status: int) -> str:
        response = await gateway.http.get("/readyz")
        assert response.status_code == status
        return response.json()["reason"] or ""

    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        assert "registry" in await reason(gateway, 503)
        gateway.directory.on_state(True)
        assert "no worker is live: the registry lists none" in await reason(gateway, 503)
        await gateway.add(worker)
        assert await reason(gateway, 200) == ""
        gateway.directory.on_state(False)  # losing the registry takes nothing away
        assert await reason(gateway, 200) == ""
        worker.draining = True
        await eventually(lambda: not gateway.session("w"))
        assert "no worker is live: 1 draining" in await reason(gateway, 503)


async def test_metrics_count_what_happened() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        await gateway.stream(max_tokens=6)
        await gateway.chat(model="nope")
        text = (await gateway.http.get("/metrics")).text
    labels = 'gen_ai_operation_name="chat",gen_ai_request_model="m"'
    for line in (
        f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="output"}} 6.0',
        f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="input"}} 5.0',
        f'gen_ai_server_request_duration_seconds_count{{error_type="",{labels}}} 1.0',
        "mesh_gateway_registry_age_seconds 0.0",
        'mesh_gateway_requests_total{model="m",route="/v1/chat/completions",status="200"} 1.0',
        'mesh_gateway_requests_total{model="",route="/v1/chat/completions",status="404"} 1.0',
        'mesh_gateway_attempts_total{model="m",outcome="finished"} 1.0',
        f"gen_ai_server_time_to_first_token_seconds_count{{{labels}}} 1.0",
        'mesh_gateway_workers{state="ready"} 1.0',
        "mesh_gateway_session_messages_total 6.0",
    ):
        assert line in text


async def test_stopping_lets_live_streams_end_and_takes_no_new_ones() -> None:
    async with FakeWorker("w", pause=0.02) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        answer = asyncio.create_task(gateway.stream(max_tokens=30))
        await eventually(lambda: worker.rows)
        gateway.stop.set()
        with pytest.raises(httpx.TransportError):
            await eventually(lambda: _fails(gateway))
        assert (await answer)[-1] == "[DONE]"


async def _fails(gateway: GatewayUnderTest) -> bool:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        await client.get("/healthz")
    return False


async def test_a_stream_that_outlives_the_drain_ends_in_an_error_event() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest(drain_timeout=0.3) as gateway:
        await gateway.add(worker)
        worker.stop_after = 4
        answer = asyncio.create_task(gateway.stream(max_tokens=30))
        await eventually(lambda: worker.rows)
        gateway.stop.set()
        events = await answer
        assert events[-1]["error"]["code"] == "draining"
        await eventually(lambda: not worker.rows)
