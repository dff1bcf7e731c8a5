"""openai-agents: OpenAI's library of agents, over chat completions and over responses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from agents import Agent, Model, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>'


class Place(BaseModel):
    city: str
    people: int


@function_tool
def look(city: str) -> str:
    """The weather somewhere."""
    return f"18 degrees in {city}"


@pytest.fixture(params=[OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[Model]:
    async with AsyncOpenAI() as client:
        yield request.param("echo", client)


async def test_streams(model: Model) -> None:
    result = Runner.run_streamed(Agent("speaker", model=model), "The sea is blue.")
    pieces = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
    ]
    assert len(pieces) > 1
    assert "".join(pieces) == result.final_output == "The sea is blue."


async def test_calls_tools(model: Model) -> None:
    done = await Runner.run(Agent("looker", model=model, tools=[look]), CALL)
    assert done.final_output == "18 degrees in Bern"
    streamed = Runner.run_streamed(Agent("looker", model=model, tools=[look]), CALL)
    names = [event.name async for event in streamed.stream_events() if event.type == "run_item_stream_event"]
    assert names == ["tool_called", "tool_output", "message_output_created"]
    assert streamed.final_output == "18 degrees in Bern"


async def test_answers_of_a_schema(model: Model) -> None:
    place = {"city": "Bern", "people": 137_995}
    done = await Runner.run(Agent("teller", model=model, output_type=Place), json.dumps(place))
    assert done.final_output == Place(**place)
