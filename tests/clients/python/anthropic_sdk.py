"""Anthropic's SDK for Python."""

from __future__ import annotations

import json
from typing import Any

from anthropic import Anthropic, AsyncAnthropic, beta_tool
from pydantic import BaseModel

CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>'
LOOK: Any = {
    "name": "look",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Place(BaseModel):
    city: str
    people: int


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "max_tokens": 500, "messages": [{"role": "user", "content": text}], **more}


def test_streams() -> None:
    with Anthropic() as client:
        with client.messages.stream(**asked("The sea is déjà vu.")) as stream:
            pieces = list(stream.text_stream)
            streamed = stream.get_final_message()
        whole = client.messages.create(**asked("The sea is déjà vu."))
    assert len(pieces) > 1
    assert "".join(pieces) == whole.content[0].text == "The sea is déjà vu."
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert (streamed.stop_reason, whole.stop_reason) == ("end_turn", "end_turn")


async def test_streams_calls_and_takes_results() -> None:
    async with AsyncAnthropic() as client:
        request = asked(CALL, tools=[LOOK])
        async with client.messages.stream(**request) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
        assert kinds.count("input_json") > 1
        assert message.stop_reason == "tool_use"
        (call,) = message.content
        assert (call.name, call.input) == ("look", {"city": "Bern"})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"}
        request["messages"] += [
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ]
        assert (await client.messages.create(**request)).content[0].text == "18 degrees"
        forced = await client.messages.create(**asked("Weather?", tools=[LOOK], tool_choice={"type": "any"}))
        assert forced.content[-1].name == "look"


def test_runs_tools_until_there_is_an_answer() -> None:
    @beta_tool
    def look(city: str) -> str:
        """The weather somewhere.

        Args:
            city: where
        """
        return f"18 degrees in {city}"

    with Anthropic() as client:
        last = client.beta.messages.tool_runner(**asked(CALL, tools=[look])).until_done()
    assert last.content[0].text == "18 degrees in Bern"


def test_answers_of_a_schema() -> None:
    place = {"city": "Bern", "people": 137_995}
    with Anthropic() as client:
        done = client.messages.parse(**asked(json.dumps(place)), output_format=Place)
    assert done.parsed_output == Place(**place)


def test_counts_tokens_and_lists_models() -> None:
    with Anthropic() as client:
        counted = client.messages.count_tokens(model="echo", messages=asked("one two")["messages"]).input_tokens
        assert counted == client.messages.create(**asked("one two")).usage.input_tokens
        assert "echo" in {model.id for model in client.models.list()}
        assert client.models.retrieve("echo").id == "echo"
