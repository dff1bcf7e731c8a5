"""pydantic-ai: agents over chat completions, responses and Anthropic's messages."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

MODELS = [OpenAIChatModel("echo"), OpenAIResponsesModel("echo"), AnthropicModel("echo")]


@pytest.fixture(params=MODELS, ids=[type(model).__name__ for model in MODELS])
def model(request: pytest.FixtureRequest) -> Model:
    return request.param


class Place(BaseModel):
    city: str
    people: int


async def test_streams(model: Model) -> None:
    async with Agent(model).run_stream("The sea is blue.") as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 1
    assert "".join(pieces) == "The sea is blue."
    assert result.usage.output_tokens > 0


def test_calls_tools(model: Model) -> None:
    agent = Agent(model)

    @agent.tool_plain
    def look(city: str) -> str:
        """The weather somewhere."""
        return f"18 degrees in {city}"

    done = agent.run_sync('<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>')
    assert done.output == "18 degrees in Bern"


def test_answers_of_a_schema(model: Model) -> None:
    place = {"city": "Bern", "people": 137_995}
    if not isinstance(model, AnthropicModel):  # of which it knows by name which have formats
        by_format = Agent(model, output_type=NativeOutput(Place)).run_sync(json.dumps(place))
        assert by_format.output == Place(**place)
    by_call = Agent(model, output_type=ToolOutput(Place, name="tell")).run_sync("Where?")
    assert isinstance(by_call.output, Place)
