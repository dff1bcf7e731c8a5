"""LiteLLM as a library, with the provider "openai"."""

from __future__ import annotations

import json
import os
from typing import Any

import litellm
import pytest
from pydantic import BaseModel

CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
WHERE: dict[str, Any] = {"model": "openai/echo", "api_base": os.environ["OPENAI_BASE_URL"], "num_retries": 0}


class Place(BaseModel):
    city: str


def says(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_streams() -> None:
    chunks = list(
        litellm.completion(messages=says("The sea."), stream=True, stream_options={"include_usage": True}, **WHERE)
    )
    whole = litellm.completion(messages=says("The sea."), **WHERE)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "The sea."
    assert whole.choices[0].message.content == "The sea."
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


async def test_streams_calls_and_takes_results() -> None:
    messages = says(CALL)
    stream = await litellm.acompletion(messages=messages, tools=TOOLS, stream=True, **WHERE)
    message = litellm.stream_chunk_builder([chunk async for chunk in stream], messages=messages).choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Bern"}
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}]
    last = await litellm.acompletion(messages=messages, tools=TOOLS, **WHERE)
    assert last.choices[0].message.content == "18 degrees"


def test_answers_of_a_schema() -> None:
    done = litellm.completion(messages=says('{"city": "Bern"}'), response_format=Place, **WHERE)
    assert Place.model_validate_json(done.choices[0].message.content) == Place(city="Bern")


def test_embeddings() -> None:
    done = litellm.embedding(input=["a", "b"], encoding_format="float", **WHERE)
    assert [item["index"] for item in done.data] == [0, 1]


def test_knows_when_a_prompt_is_too_long() -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=says("x" * 300_000), **WHERE)
