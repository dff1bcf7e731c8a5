"""Instructor: answers as pydantic models, by each of its ways that need no particular provider."""

from __future__ import annotations

import json

import instructor
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

PLACE = {"city": "Bern", "people": 137_995}
MODES = [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA]


class Place(BaseModel):
    city: str
    people: int


def says(mode: instructor.Mode, name: str = "Place") -> str:
    called = f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(PLACE)}}}\n</tool_call>'
    return called if "tool" in mode.value else json.dumps(PLACE)


@pytest.mark.parametrize("mode", MODES, ids=[mode.value for mode in MODES])
async def test_answers_of_a_schema(mode: instructor.Mode) -> None:
    messages = [{"role": "user", "content": says(mode)}]
    client = instructor.from_openai(OpenAI(), mode=mode)
    assert client.chat.completions.create(model="echo", messages=messages, response_model=Place).model_dump() == PLACE
    later = instructor.from_openai(AsyncOpenAI(), mode=mode)
    place = await later.chat.completions.create(model="echo", messages=messages, response_model=Place)
    assert place.model_dump() == PLACE


@pytest.mark.parametrize("mode", MODES, ids=[mode.value for mode in MODES])
def test_streams_parts(mode: instructor.Mode) -> None:
    client = instructor.from_openai(OpenAI(), mode=mode)
    messages = [{"role": "user", "content": says(mode, "PartialPlace")}]
    parts = list(client.chat.completions.create_partial(model="echo", messages=messages, response_model=Place))
    assert len(parts) > 1
    assert parts[-1].model_dump() == PLACE
