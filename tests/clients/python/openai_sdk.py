"""OpenAI's SDK for Python."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI, pydantic_function_tool
from pydantic import BaseModel

WEATHER = {"city": "Zürich", "days": 3}
AS_JSON = json.dumps(WEATHER, ensure_ascii=False)
CALL = f'<tool_call>\n{{"name": "Weather", "arguments": {AS_JSON}}}\n</tool_call>'


class Weather(BaseModel):
    city: str
    days: int


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_streams() -> None:
    with OpenAI() as client:
        options: Any = {
            "model": "echo",
            "messages": says("The sea is déjà vu."),
            "stream_options": {"include_usage": True},
        }
        chunks = list(client.chat.completions.create(stream=True, **options))
        whole = client.chat.completions.create(model="echo", messages=options["messages"])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "The sea is déjà vu."
    assert whole.choices[0].message.content == "The sea is déjà vu."
    assert whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert whole._request_id


async def test_streams_asynchronously() -> None:
    async with AsyncOpenAI() as client:
        stream = await client.chat.completions.create(
            model="mesh-demo", messages=says("Hello!"), temperature=0, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        whole = await client.chat.completions.create(model="mesh-demo", messages=says("Hello!"), temperature=0)
    assert text
    assert whole.choices[0].message.content == text


def test_parses_answers_of_a_schema() -> None:
    with OpenAI() as client:
        for model, text in (("echo", AS_JSON), ("mesh-demo", "Answer in JSON.")):
            done = client.chat.completions.parse(
                model=model, messages=says(text), response_format=Weather, max_completion_tokens=500
            )
            parsed = done.choices[0].message.parsed
            assert isinstance(parsed, Weather)
            assert model != "echo" or parsed == Weather(**WEATHER)


async def test_streams_calls_and_takes_results() -> None:
    tools = [pydantic_function_tool(Weather)]
    async with AsyncOpenAI() as client:
        messages = says(CALL)
        async with client.chat.completions.stream(model="echo", messages=messages, tools=tools) as stream:
            kinds = [event.type async for event in stream]
            message = (await stream.get_final_completion()).choices[0].message
        assert kinds.count("tool_calls.function.arguments.delta") > 1
        assert message.tool_calls
        (call,) = message.tool_calls
        assert call.function.parsed_arguments == Weather(**WEATHER)
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}]
        last = await client.chat.completions.create(model="echo", messages=messages, tools=tools)
    assert last.choices[0].message.content == "18 degrees"


def test_demands_a_call() -> None:
    with OpenAI() as client:
        done = client.chat.completions.parse(
            model="echo", messages=says("Weather?"), tools=[pydantic_function_tool(Weather)], tool_choice="required"
        )
    assert done.choices[0].finish_reason == "tool_calls"
    assert done.choices[0].message.tool_calls
    assert isinstance(done.choices[0].message.tool_calls[0].function.parsed_arguments, Weather)


def test_completions() -> None:
    with OpenAI() as client:
        done = client.completions.create(model="echo", prompt=["one two", "three"], logprobs=2, max_tokens=4)
        assert [choice.index for choice in done.choices] == [0, 1]
        assert done.choices[0].logprobs
        assert done.choices[0].logprobs.tokens
        stream = client.completions.create(model="echo", prompt="one two", echo=True, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "one twoone two"


def test_embeddings() -> None:
    with OpenAI() as client:
        packed = client.embeddings.create(model="echo", input=["a", "b"])  # base64, which the SDK unpacks
        plain = client.embeddings.create(model="echo", input=["a", "b"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert max(abs(x - y) for x, y in zip(one.embedding, other.embedding, strict=True)) < 1e-6


def test_models() -> None:
    with OpenAI() as client:
        assert {model.id for model in client.models.list()} >= {"echo", "mesh-demo"}
        assert client.models.retrieve("echo").id == "echo"


async def test_responses() -> None:
    async with AsyncOpenAI() as client:
        async with client.responses.stream(model="echo", input="The sea is déjà vu.") as stream:
            pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            streamed = await stream.get_final_response()
        whole = await client.responses.create(model="echo", input="The sea is déjà vu.")
        assert len(pieces) > 1
        assert "".join(pieces) == streamed.output_text == whole.output_text == "The sea is déjà vu."
        assert streamed.usage == whole.usage
        parsed = await client.responses.parse(model="echo", input=AS_JSON, text_format=Weather)
        assert parsed.output_parsed == Weather(**WEATHER)


def test_responses_call_tools_and_are_kept() -> None:
    with OpenAI() as client:
        tools: Any = [pydantic_function_tool(Weather)["function"] | {"type": "function"}]
        first = client.responses.create(model="echo", input=CALL, tools=tools)
        (call,) = first.output
        assert call.type == "function_call"
        assert json.loads(call.arguments) == WEATHER
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
        last = client.responses.create(model="echo", previous_response_id=first.id, input=[result], tools=tools)
        assert last.output_text == "18 degrees"
        assert client.responses.retrieve(last.id).output_text == "18 degrees"
        assert [item.type for item in client.responses.input_items.list(last.id)] != []
        client.responses.delete(last.id)
        with pytest.raises(NotFoundError):
            client.responses.retrieve(last.id)
