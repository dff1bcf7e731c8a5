"""/tokenize and /detokenize: over a real worker, what they refuse, and what happens when a worker dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from mesh.engine.base import Chat, Message, Text
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord
from mesh.worker.events import capabilities
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.component.worker_rig import serving
from tests.harness import eventually

TEXT = 'né"e <b>\n'
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "a b"}]


class Tokenizing(FakeWorker):
    """Its tokens are characters; asked before `gate` is open, it waits."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id)
        self.asked = 0
        self.ended = 0
        self.gate = asyncio.Event()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        self.asked += 1
        try:
            await self.gate.wait()
        finally:
            self.ended += 1
        return pb.TokenizeResponse(token_ids=map(ord, request.text))


@asynccontextmanager
async def real_worker() -> AsyncGenerator[tuple[GatewayUnderTest, ScriptedEngine]]:
    engine = ScriptedEngine(ScriptedOptions(name="m", context_length=4096))
    async with serving(engine) as rig, GatewayUnderTest() as gateway:
        identity, (model,) = rig.server.identity, engine.models
        record = WorkerRecord(
            worker_id=identity.worker_id,
            incarnation=identity.incarnation,
            address=f"127.0.0.1:{rig.port}",
            slots=8,
            state=WORKER_STATE_READY,
            models=[ServedModel(name="m", fingerprint=model.fingerprint, capabilities=capabilities(model))],
        )
        gateway.directory.on_worker(identity.worker_id, record)
        await eventually(lambda: gateway.session(identity.worker_id))
        yield gateway, engine


async def ask(gateway: GatewayUnderTest, path: str = "/tokenize", **fields: Any) -> httpx.Response:
    return await gateway.http.post(path, json={"model": "m", **fields})


@pytest.mark.parametrize("special", [None, True, False])
async def test_a_text_there_and_back(special: bool | None) -> None:
    async with real_worker() as (gateway, engine):
        found = (await ask(gateway, prompt=TEXT, add_special_tokens=special)).json()
        ids = await engine.tokenize("m", Text(TEXT), add_special_tokens=special is not False)
        assert list(found.items()) == [
            ("count", len(ids)),
            ("max_model_len", 4096),
            ("tokens", ids),
            ("token_strs", None),
        ]
        back = (await ask(gateway, "/detokenize", tokens=ids)).json()
        assert back == {"prompt": await engine.detokenize("m", ids, keep_special_tokens=True)}
        assert TEXT in back["prompt"]


async def test_a_conversation_counts_as_it_would_in_a_chat() -> None:
    async with real_worker() as (gateway, engine):
        found = (await ask(gateway, messages=MESSAGES)).json()
        closed = (await ask(gateway, messages=MESSAGES, add_generation_prompt=False)).json()
        answer = await gateway.http.post(
            "/v1/chat/completions", json={"model": "m", "messages": MESSAGES, "max_tokens": 1}
        )
        chat = Chat((Message("system", ("s",)), Message("user", ("a b",))))
        assert found["tokens"] == await engine.tokenize("m", chat)
    assert found["count"] == answer.json()["usage"]["prompt_tokens"]
    assert closed["count"] < found["count"]


@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        ("/tokenize", {}, "prompt", "invalid_request"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "messages", "invalid_request"),
        ("/tokenize", {"prompt": 1}, "prompt", "invalid_request"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools", "invalid_request"),
        ("/tokenize", {"prompt": "a", "return_token_strs": True}, "return_token_strs", "unsupported"),
        ("/tokenize", {"messages": []}, "messages", "invalid_request"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens", "unsupported"),
        ("/tokenize", {"messages": MESSAGES, "temperature": 1}, "temperature", "invalid_request"),
        ("/detokenize", {}, "tokens", "invalid_request"),
        ("/detokenize", {"tokens": []}, "tokens", "invalid_request"),
        ("/detokenize", {"tokens": [-1]}, "tokens", "invalid_request"),
        ("/detokenize", {"tokens": "a"}, "tokens", "invalid_request"),
        ("/detokenize", {"tokens": [2**31]}, "tokens", "invalid_request"),
        ("/detokenize", {"model": "x", "tokens": [1]}, "model", "model_not_found"),
    ],
)
async def test_what_is_wrong_is_named(path: str, fields: dict[str, Any], param: str, code: str) -> None:
    async with real_worker() as (gateway, _):
        response = await ask(gateway, path, **fields)
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert f"'{param}" in error["message"] or code == "model_not_found"
    assert response.status_code == (404 if code == "model_not_found" else 400)


async def test_a_worker_that_dies_is_replaced() -> None:
    async with Tokenizing("a") as one, Tokenizing("b") as other, GatewayUnderTest() as gateway:
        await gateway.add(one)
        asked = asyncio.create_task(ask(gateway, prompt="hi"))
        await eventually(lambda: one.asked)
        other.gate.set()
        await gateway.add(other)
        await one.kill()
        assert (await asked).json() == {"count": 2, "max_model_len": None, "tokens": [104, 105], "token_strs": None}
        assert gateway.metric("mesh_gateway_attempts_total", model="m", outcome="worker_lost") == 1
        assert gateway.tokens("input", "tokenize") == 0


async def test_a_client_that_hangs_up_ends_the_call() -> None:
    async with Tokenizing("a") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        asked = asyncio.create_task(ask(gateway, prompt="hi"))
        await eventually(lambda: worker.asked)
        asked.cancel()
        await eventually(lambda: worker.ended)
