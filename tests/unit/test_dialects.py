"""Reasoning and calls are told from text, however the text is cut."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.dialects import (
    AUTO,
    HARMONY,
    NONE,
    REASONING,
    TOOLS,
    Arguments,
    Call,
    Content,
    Dialect,
    Part,
    Reasoning,
    find,
    joined,
    read,
)
from mesh.templates import builtin
from mesh.worker.flags.dialect import ReasoningParser, ToolParser
from tests.unit.dialect_texts import ALONE, WRITERS, answer, dialect_of
from tests.unit.dialect_texts import TOOLS as FUNCTIONS

FRAGMENTS = [
    *(token for style in TOOLS.values() for token in style.tokens),
    *("<think>", "</think>", "[THINK]", "[/THINK]", "<function=", "</function>", "<parameter=city>", "</parameter>"),
    *('{"name": "get_weather"', ', "arguments": ', '{"city": "a\\"b"}', "{", "}", "[", "]", ";", ",", "(", ")", '"'),
    *("get_weather", "city=", "functools", "```json\n", "\n```", "function", "<", "<|", " to=functions.get_weather"),
    *(
        "<tool_call>get_weather\n",
        "<function=get_weather>",
        "commentary",
        "analysis",
        "assistant",
        " ",
        "\n",
        "é🙂",
        "\\",
    ),
]
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=14).map("".join)
cuts = st.lists(st.integers(1, 9), min_size=1, max_size=8)
dialects = st.builds(Dialect, st.sampled_from([*TOOLS, NONE]), st.sampled_from([*REASONING, "harmony", NONE]))

# Values that every format can write and read back.
words = st.text(st.sampled_from("ab é🙂\"'\\{}[](),=:;<>|\n"), min_size=1, max_size=12).map(lambda text: f"x{text}y")
weather = st.fixed_dictionaries(
    {"city": words}, optional={"days": st.integers(-9, 99), "fine": st.booleans() | st.none()}
)
files = st.fixed_dictionaries({}, optional={"text": words, "tags": st.lists(words | st.integers(), max_size=3)})
calls = st.lists(
    st.tuples(st.just("get_weather"), weather) | st.tuples(st.just("write-file"), files), min_size=1, max_size=3
)
prose = st.text(st.sampled_from("abc é🙂\n<{[|"), max_size=20).map(lambda text: f"x{text}y")


def parts(text: str, dialect: Dialect, sizes: list[int], prompt_end: str = "") -> list[Part]:
    reader = read(dialect, tools=FUNCTIONS, reasoned=True, prompt_end=prompt_end)
    if reader is None:
        return [Content(text)] if text else []
    found: list[Part] = []
    place = turn = 0
    while place < len(text):
        size = sizes[turn % len(sizes)]
        found += reader.feed(text[place : place + size])
        place += size
        turn += 1
    return joined(found + reader.finish())


def whole(text: str, dialect: Dialect, prompt_end: str = "") -> list[Part]:
    return parts(text, dialect, [max(1, len(text))], prompt_end)


def calls_of(found: list[Part]) -> list[tuple[str, Any]]:
    named: list[tuple[str, str]] = []
    for part in found:
        if isinstance(part, Call):
            named.append((part.name, ""))
        elif isinstance(part, Arguments):
            named[-1] = (named[-1][0], named[-1][1] + part.text)
    return [(name, json.loads(text)) for name, text in named]


@settings(max_examples=400)
@given(texts, dialects, cuts, st.sampled_from(["", "<think>\n", "[THINK]", "<|start|>assistant", "x"]))
@example("<tool_call>" * 3 + '{"name"', Dialect("hermes"), [1], "")
@example('<think></think>[get_weather(city="a', Dialect("pythonic", "think"), [3], "")
def test_any_cut_gives_the_same_parts(text: str, dialect: Dialect, sizes: list[int], prompt_end: str) -> None:
    assert parts(text, dialect, sizes, prompt_end) == whole(text, dialect, prompt_end)


@settings(max_examples=300)
@given(texts, dialects)
def test_a_text_without_call_and_reasoning_comes_back_whole(text: str, dialect: Dialect) -> None:
    found = whole(text, dialect)
    harmony = "harmony" in (dialect.tools, dialect.reasoning)  # its header is no text
    if not harmony and not any(isinstance(part, Call | Reasoning) for part in found) and "think" not in text.lower():
        assert found == ([Content(text)] if text else [])


@settings(max_examples=300)
@given(texts, st.sampled_from([name for name in TOOLS if name not in ("harmony", "glm", "qwen_xml", "pythonic")]))
def test_no_text_is_lost_beside_calls(text: str, tools: str) -> None:
    """What is no markup and no white space is somewhere in the parts, in order."""
    found = whole(text, Dialect(tools))
    rest = iter("".join(part.name if isinstance(part, Call) else part.text for part in found))
    lost = [character for character in text if character in "é🙂" and character not in rest]
    assert lost == []


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=40)
@given(prose | st.just(""), prose | st.just(""), calls | st.just([]), cuts)
def test_what_a_model_writes_is_read_back(
    writer: str, reasoning: str, content: str, made: list[tuple[str, Any]], sizes: list[int]
) -> None:
    if writer == "harmony":
        made = made[:1]
    if writer in ALONE and made:
        content = ""
    if writer == "pythonic":
        made = [call for call in made if call[0] == "get_weather"]
    found = parts(answer(writer, reasoning, content, made), dialect_of(writer), sizes)
    texts = {kind: "".join(part.text for part in found if isinstance(part, kind)) for kind in (Reasoning, Content)}
    assert texts == {Reasoning: reasoning, Content: content}
    assert calls_of(found) == made


def test_arguments_come_as_they_are_written() -> None:
    reader = read(Dialect("hermes"), tools=FUNCTIONS, reasoned=False, prompt_end="")
    assert reader is not None
    assert reader.feed('<tool_call>{"name": "f", "argum') == []
    assert reader.feed('ents": {"a": "b') == [Call("f"), Arguments('{"a": "b')]
    assert reader.feed(" c") == [Arguments(" c")]
    assert reader.finish() == []


@pytest.mark.parametrize("tools", ["glm", "qwen_xml"])
def test_strings_between_tags_come_as_they_are_written(tools: str) -> None:
    text = {"glm": glm_head, "qwen_xml": qwen_head}[tools]
    reader = read(Dialect(tools), tools=FUNCTIONS, reasoned=False, prompt_end="")
    assert reader is not None
    assert reader.feed(text) == [Call("write-file"), Arguments('{"text": "one ')]
    assert reader.feed('"two"') == [Arguments('\\"two\\"')]


ANYTHING: dict[str, Any] = {}
glm_head = "<tool_call>write-file\n<arg_key>text</arg_key>\n<arg_value>one "
qwen_head = "<tool_call>\n<function=write-file>\n<parameter=text>\none "


@pytest.mark.parametrize(
    ("prompt_end", "text", "expected"),
    [
        ("<think>\n", "a</think>b", [Reasoning("a"), Content("b")]),
        ("<think>\n", "a", [Reasoning("a")]),
        ("<think>\n\n</think>\n\n", "a</think>b", [Content("a</think>b")]),
        ("", "<think>a</think>", [Reasoning("a")]),
        ("", "a <think>b</think>", [Content("a <think>b</think>")]),
    ],
)
def test_reasoning_may_begin_in_the_prompt(prompt_end: str, text: str, expected: list[Part]) -> None:
    assert whole(text, Dialect("hermes", "think"), prompt_end) == expected


@pytest.mark.parametrize(
    ("raw", "city", "expected"),
    [
        ("12", {"type": "string"}, "12"),
        ("12", {"type": "integer"}, 12),
        ("12", ANYTHING, 12),
        ("True", {"type": "boolean"}, True),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("12", {"type": ["string", "null"]}, "12"),
        ("a", {"enum": ["a", "b"]}, "a"),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ("1e999", {"type": "number"}, "1e999"),
    ],
)
def test_values_between_tags_become_what_the_schema_says(raw: str, city: dict[str, Any], expected: Any) -> None:
    tools = {"f": {"properties": {"a": city}}}
    reader = read(Dialect("glm"), tools=tools, reasoned=False, prompt_end="")
    assert reader is not None
    text = f"<tool_call>f<arg_key>a</arg_key><arg_value>{raw}</arg_value></tool_call>"
    assert calls_of(reader.feed(text) + reader.finish()) == [("f", {"a": expected})]


def test_bare_json_is_a_call_only_of_a_known_function() -> None:
    person = '{"name": "Ada", "parameters": {"born": 1815}}'
    assert whole(person, Dialect("llama3_json")) == [Content(person)]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("… <tool_call>\n{{ call | tojson }} … </think> …", Dialect("hermes", "think")),
        ("… <tool_call>\n<function=name> … </think>", Dialect("qwen_xml", "think")),
        ("{{ '<|python_tag|>' }}", Dialect("llama3_json")),
        ("[TOOL_CALLS]", Dialect("mistral")),
        ("[TOOL_CALLS] [THINK]", Dialect("mistral", "mistral")),
        ("<｜tool▁calls▁begin｜> </think>", Dialect("deepseek", "think")),
        ("<|start|>assistant<|channel|>final", Dialect("harmony", "harmony")),
        ("<tool_call>{{ name }}<arg_key>", Dialect("glm")),
        ("<|tool_call|>", Dialect("granite")),
        ("<|tool|>{{ tools }}<|/tool|>", Dialect("phi")),
        ("[func_name1(params_name1=params_value1)]", Dialect("pythonic")),
        ("{{ message.content }}", Dialect()),
    ],
)
def test_the_dialect_is_found_in_the_template(template: str, expected: Dialect) -> None:
    assert find(template) == expected


def test_of_the_built_in_templates_only_harmony_has_a_dialect() -> None:
    spoken = {name: find(template.text) for name, template in builtin().items()}
    assert {name: dialect for name, dialect in spoken.items() if dialect != Dialect()} == {
        "gpt-oss": Dialect("harmony", "harmony")
    }


def test_every_parser_can_be_chosen_by_flag() -> None:
    assert set(get_args(ToolParser)) == {AUTO, NONE, *TOOLS}
    assert set(get_args(ReasoningParser)) == {AUTO, NONE, HARMONY, *REASONING}


@pytest.mark.parametrize("tools", [*TOOLS])
@pytest.mark.parametrize(
    "text",
    [
        r'<tool_call>{"name": "get_weather", "arguments": "{\"city\": \"\ud800\"}"}</tool_call>',
        r'<tool_call>{"name": "\ud800", "arguments": {}}</tool_call>',
        r'{"name": "get_weather", "arguments": "\ud800"}',
        r'<tool_call>get_weather<arg_key>days</arg_key><arg_value>"\ud800"</arg_value></tool_call>',
        r'<function=get_weather><parameter=days>["\ud800"]</parameter></function>',
        r'[get_weather(city="\ud800")]',
    ],
)
def test_half_a_surrogate_pair_that_a_model_writes_stays_an_escape(tools: str, text: str) -> None:
    """As a character it could be in no answer."""
    reader = read(Dialect(tools), tools=FUNCTIONS, reasoned=False, prompt_end="")
    assert reader is not None
    for part in (*reader.feed(text), *reader.finish()):
        (part.name if isinstance(part, Call) else part.text).encode()
