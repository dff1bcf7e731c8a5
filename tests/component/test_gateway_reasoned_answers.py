"""Structured output of a model that reasons: the reasoning is told as such, and the schema holds what comes after."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from mesh.dialects import Dialect
from mesh.engine.scripted import ScriptedOptions
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.whole_mesh import whole

SCHEMA = {
    "type": "object",
    "properties": {"sea": {"type": "string"}},
    "required": ["sea"],
    "additionalProperties": False,
}
SAID = '<think>\nis it {"green"?\n</think>\n\n{"sea": "blue"} and more'
ASKED = [{"role": "user", "content": SAID}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
CHAT: dict[str, Any] = {"model": "m", "messages": ASKED, "response_format": FORMAT}


@pytest.fixture
async def gateway() -> AsyncGenerator[GatewayUnderTest]:
    options = ScriptedOptions(name="m", text="echo", slots=16, dialect=Dialect("hermes", "think"))
    async with whole(options) as (running, _):
        yield running


async def asked(gateway: GatewayUnderTest, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await gateway.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_chats_tell_the_reasoning_and_then_what_the_schema_says(gateway: GatewayUnderTest) -> None:
    found = await asked(gateway, "/v1/chat/completions", CHAT)
    message = found["choices"][0]["message"]
    assert json.loads(message["content"]) == {"sea": "blue"}
    assert message["reasoning_content"] == 'is it {"green"?'
    assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] > 10
    streamed = (await gateway.http.post("/v1/chat/completions", json={**CHAT, "stream": True})).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == message["reasoning_content"]


async def test_without_a_place_for_reasoning_there_is_none(gateway: GatewayUnderTest) -> None:
    found = await asked(gateway, "/v1/chat/completions", {**CHAT, "separate_reasoning": False})
    message = found["choices"][0]["message"]
    assert set(json.loads(message["content"])) == {"sea"}
    assert "reasoning_content" not in message


async def test_responses_and_messages_do_the_same(gateway: GatewayUnderTest) -> None:
    shape = {"type": "json_schema", "name": "s", "schema": SCHEMA}
    response = await asked(gateway, "/v1/responses", {"model": "m", "input": SAID, "text": {"format": shape}})
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert json.loads(response["output"][1]["content"][0]["text"]) == {"sea": "blue"}
    body = {
        "model": "m",
        "messages": ASKED,
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    blocks = (await asked(gateway, "/v1/messages", body))["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text"]
    assert json.loads(blocks[1]["text"]) == {"sea": "blue"}
