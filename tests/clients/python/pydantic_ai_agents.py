"""pydantic-ai: agents over chat completions."""

from __future__ import annotations

import json

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

MODEL = OpenAIChatModel("echo", provider=OpenAIProvider())


class Place(BaseModel):
    city: str
    people: int


async def test_streams() -> None:
    async with Agent(MODEL).run_stream("The sea is blue.") as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 1
    assert "".join(pieces) == "The sea is blue."
    assert result.usage.output_tokens > 0


def test_calls_tools() -> None:
    agent = Agent(MODEL)

    @agent.tool_plain
    def look(city: str) -> str:
        """The weather somewhere."""
        return f"18 degrees in {city}"

    done = agent.run_sync('<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>')
    assert done.output == "18 degrees in Bern"


def test_answers_of_a_schema() -> None:
    place = {"city": "Bern", "people": 137_995}
    by_format = Agent(MODEL, output_type=NativeOutput(Place)).run_sync(json.dumps(place))
    assert by_format.output == Place(**place)
    by_call = Agent(MODEL, output_type=ToolOutput(Place, name="tell")).run_sync("Where?")
    assert isinstance(by_call.output, Place)
