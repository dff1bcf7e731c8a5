"""Anything may be sent to the gateway over HTTP: each request gets an answer in time that is not our mistake, and then
nothing of it is left anywhere, down to the rows of the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.openai.chat_schema import ChatRequest
from gateway.openai.completion_schema import CompletionRequest
from gateway.openai.embedding_schema import EmbeddingRequest
from tests.component.fuzz_strategies import bodies, json_values
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.whole_mesh import whole
from tests.component.worker_rig import Rig
from tests.harness import eventually

LIMIT = 20.0
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
JSON = {"content-type": "application/json"}
# Each example is a handful of requests at once, so that they meet.
FUZZ = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
Raw = tuple[str, str, bytes, dict[str, str]]

_models = st.sampled_from(["m", "m", "m", "other"])
_messages = st.just([{"role": "user", "content": "hi"}])
_prompts: st.SearchStrategy[Any] = st.sampled_from(
    ["hi", ["a", "b"], [1, 2], [[1], [2, 3]], "", [], [[]], ["a", 1], [-1], [2**32]]
)
requests = st.one_of(
    st.tuples(st.just(CHAT), bodies(ChatRequest, model=_models, messages=_messages)),
    st.tuples(st.just(COMPLETIONS), bodies(CompletionRequest, model=_models, prompt=_prompts)),
    st.tuples(st.just(EMBEDDINGS), bodies(EmbeddingRequest, model=_models, input=_prompts)),
)
raw = st.tuples(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    st.sampled_from(
        [CHAT, COMPLETIONS, EMBEDDINGS, "/v1/models", "/v1/models/m", "/healthz", "/v1//x", "/%00/..", "/"]
    ),
    st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(["content-type", "x-request-id", "x-deadline-ms", "last-event-id", "accept", "authorization"]),
        st.text("azAZ09-/;=: .,", max_size=20).map(str.strip) | st.just("application/json"),
        max_size=3,
    ),
)


class Whole:
    """A gateway and a worker with the scripted engine, both in this process and over real sockets."""

    def __init__(self, gateway: GatewayUnderTest, rig: Rig) -> None:
        self.gateway = gateway
        self.rig = rig

    async def send(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> None:
        """One request; whatever the answer, it must be one that we stand for."""
        async with asyncio.timeout(LIMIT):
            response = await self.gateway.http.request(method, path, content=content, headers=headers)
        assert response.status_code < 500, (response.status_code, response.text)
        if response.status_code >= 400:
            if method != "HEAD":
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        elif response.headers["content-type"].startswith("text/event-stream"):
            _check_stream(response)

    async def together(self, *sends: Coroutine[Any, Any, None]) -> None:
        """All at once; then everything is as before, and a good request is answered."""
        await asyncio.gather(*sends)
        assert (await self.gateway.chat(max_tokens=2)).status_code == 200
        await eventually(self._nothing_left)

    def _nothing_left(self) -> bool:
        engine = self.rig.server.streams.engine
        return not self.gateway.exchanges.live and not self.rig.server.streams.busy and not engine.stats()["rows_live"]


def _check_stream(response: httpx.Response) -> None:
    """It ends as streams end, and an error in it is none of ours."""
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-3:]
    for event in events[:-1]:
        error = json.loads(event).get("error")
        assert error is None or error["type"] == "invalid_request_error", error


@pytest.fixture
async def fuzzed() -> AsyncGenerator[Whole]:
    async with whole() as (gateway, rig):
        found = Whole(gateway, rig)
        tasks = len(asyncio.all_tasks())
        yield found
        # Connections that are kept alive have a task each.
        await found.gateway.http.aclose()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)


@FUZZ
@given(st.lists(requests, min_size=1, max_size=6))
async def test_bodies_of_the_right_and_of_the_wrong_types(
    fuzzed: Whole, sent: list[tuple[str, dict[str, Any]]]
) -> None:
    await fuzzed.together(*(fuzzed.send("POST", path, json.dumps(each).encode(), JSON) for path, each in sent))


@FUZZ
@given(st.lists(raw, min_size=1, max_size=8))
async def test_any_method_path_header_and_bytes(
    fuzzed: Whole, sent: list[tuple[str, str, bytes, dict[str, str]]]
) -> None:
    await fuzzed.together(*(fuzzed.send(*each) for each in sent))


@FUZZ
@given(st.data())
async def test_a_valid_body_with_one_byte_changed(fuzzed: Whole, data: st.DataObject) -> None:
    whole_body = json.dumps(body(max_tokens=2, stream=data.draw(st.booleans()))).encode()
    changed: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 8))):
        place, byte = data.draw(st.integers(0, len(whole_body) - 1)), data.draw(st.integers(0, 255))
        changed.append(whole_body[:place] + bytes([byte]) + whole_body[place + 1 :])
    await fuzzed.together(*(fuzzed.send("POST", CHAT, each, JSON) for each in changed))
