"""Tools in words, for templates that have no place for them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mesh.dialects import Arguments, Call, Content, Dialect, read
from mesh.engine.base import Chat, Message, Tool, ToolCall
from mesh.engine.chat import ChatRenderer
from mesh.engine.text import Tokenizer
from mesh.engine.tool_prompt import tool_prompt
from mesh.errors import MeshError
from mesh.templates import builtin
from tests.unit.tokenizers import byte_level

TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS
DEAF = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
WEATHER = Tool("weather", "Tells it", {"type": "object", "properties": {"city": {"type": "string"}}})
QUESTION = Message("user", ("Rain?",))
CALL = ToolCall("c1", "weather", '{"city": "Oslo"}')
TALK = (
    Message("system", ("Be brief.",)),
    QUESTION,
    Message("assistant", None, tool_calls=(CALL, replace(CALL, id="c2"))),
    Message("tool", ("rain",), tool_call_id="c1"),
    Message("tool", ("sun",), tool_call_id="c2"),
)
PROMPT = tool_prompt((WEATHER,))


def text(template: str, *messages: Message, parser: str = "auto") -> str:
    renderer = ChatRenderer(Tokenizer(byte_level()), template, tool_parser=parser)
    return renderer.text(Chat(messages, (WEATHER,), add_generation_prompt=False))


def test_the_tools_stand_in_the_system_message() -> None:
    assert text(TURNS, QUESTION) == f"[system] {PROMPT}\n[user] Rain?\n"
    assert text(TURNS, *TALK[:2]) == f"[system] Be brief.\n\n{PROMPT}\n[user] Rain?\n"
    assert json.loads(PROMPT.splitlines()[1]) == {
        "name": "weather",
        "description": "Tells it",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }


@pytest.mark.parametrize("template", [NO_SYSTEM, DEAF], ids=["refuses it", "leaves it out"])
def test_or_before_the_question_where_there_is_no_system_message(template: str) -> None:
    assert text(template, QUESTION) == f"[user] {PROMPT}\n\nRain?\n"


def test_calls_and_results_of_earlier_turns_are_text() -> None:
    found = text(TURNS, *TALK).split("[user] ")
    reader = read(Dialect("hermes"), tools={"weather": {}}, reasoned=False, prompt_end="")
    assert reader is not None
    said = found[1].partition("[assistant] ")[2].removesuffix("\n")
    assert reader.feed(said) + reader.finish() == [Call("weather"), Arguments(CALL.arguments)] * 2
    response = "<tool_response>\n{}\n</tool_response>\n"
    assert found[2] == response.format("rain") + response.format("sun")


def test_words_of_an_assistant_go_before_its_calls() -> None:
    turn = Message("assistant", ("Let me see.",), tool_calls=(CALL,))
    said = text(TURNS, QUESTION, turn).partition("[assistant] ")[2].removesuffix("\n")
    reader = read(Dialect("hermes"), tools={"weather": {}}, reasoned=False, prompt_end="")
    assert reader is not None
    assert reader.feed(said) + reader.finish() == [Content("Let me see."), Call("weather"), Arguments(CALL.arguments)]


@pytest.mark.parametrize("name", sorted(builtin()))
def test_all_built_in_templates_can_be_given_tools(name: str) -> None:
    template = builtin()[name].text
    renderer = ChatRenderer(Tokenizer(byte_level()), template)
    if renderer.dialect.tools != "hermes":
        return  # a family with calls of its own, which this template does not teach
    assert renderer.supports_tools
    rendered = renderer.text(Chat(TALK, (WEATHER,)))
    assert PROMPT in rendered
    assert rendered.index(PROMPT) < rendered.index("<tool_call>", rendered.index("Rain?")) < rendered.index("sun")


@pytest.mark.parametrize("parser", ["none", "mistral"])
def test_no_words_where_the_calls_would_not_be_found(parser: str) -> None:
    with pytest.raises(MeshError) as caught:
        text(TURNS, QUESTION, parser=parser)
    assert caught.value.param == "tools"


def test_a_conversation_that_the_template_refuses_is_refused_for_its_own_reason() -> None:
    strict = "{% if messages | length > 3 %}{{ raise_exception('too long') }}{% endif %}" + TURNS
    with pytest.raises(MeshError, match="too long") as caught:
        text(strict, *TALK)
    assert caught.value.param == "messages"
