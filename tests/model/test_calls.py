"""Calls that an answer must make, or may make in a strict way: a random model makes them, and keeps to the schema."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.dialects import HARMONY, TOOLS, Arguments, Call, Content, Dialect, Part, Reasoning, joined, read
from mesh.engine.base import CallRule, Chat, Constraint, FinishReason, Message, Text, Tool
from mesh.engine.constraint import Grammars
from mesh.engine.text import Tokenizer
from mesh.errors import ErrorKind, MeshError
from tests.model.driver import Answer, Driver
from tests.model.tiny import EOS, make_tokenizer, save
from tests.unit.dialect_texts import answer, dialect_of

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}!{% endif %}{{ start }}"
ADD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["km", "mi"], "type": "string"},
    },
    "required": ["a"],
    "additionalProperties": False,
}
FUNCTIONS = (Tool("add", "", ADD, strict=True), Tool("stop", "", {}, strict=True))
SEEDS = range(3)


def chat(rule: CallRule, tools: tuple[Tool, ...] = FUNCTIONS, start: str = "") -> Chat:
    arguments = {"start": start}
    return Chat((Message("user", ("hi",)),), tools, call_rule=rule, template_arguments=arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("calls")
    return save(folder, "Llama", max_position_embeddings=512)[0]


@asynccontextmanager
async def speaking(model: str, tools: str, reasoning: str = "none") -> AsyncGenerator[Driver]:
    parsers = {"tool_parser": tools, "reasoning_parser": reasoning}
    async with Driver(model, chat_template=TEMPLATE, model=parsers) as driver:
        yield driver


async def answers(driver: Driver, asked: Chat, tokens: int = 400) -> list[Answer]:
    keys = [
        await driver.submit(asked, tokens=tokens, sampling={"temperature": 1.0, "seed": seed, "ignore_eos": False})
        for seed in SEEDS
    ]
    return [await driver.answer(key) for key in keys]


def told(answer: Answer, dialect: Dialect, prompt_end: str = "") -> list[Part]:
    schemas = {tool.name: tool.parameters for tool in FUNCTIONS}
    reader = read(dialect, tools=schemas, reasoned=True, prompt_end=prompt_end)
    assert reader is not None
    return joined(reader.feed(answer.text[0]) + reader.finish())


def calls(parts: list[Part]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, part in enumerate(parts):
        if isinstance(part, Call):
            arguments = parts[place + 1]
            assert isinstance(arguments, Arguments)
            yield part.name, json.loads(arguments.text)


def fits(name: str, arguments: dict[str, Any]) -> bool:
    if name == "stop":
        return True
    keys = set(arguments)
    return (
        {"a"} <= keys <= {"a", "unit"}
        and isinstance(arguments["a"], int)
        and 0 <= arguments["a"] <= 99
        and arguments.get("unit", "km") in ("km", "mi")
    )


# Without limits of their own, free objects of `stop` can go on for ever.
CLOSED = (FUNCTIONS[0], Tool("stop", "", {"type": "object", "properties": {}, "additionalProperties": False}))


@pytest.mark.parametrize("tools", TOOLS)
async def test_a_demanded_call_is_made_and_satisfies_its_schema(model: str, tools: str) -> None:
    dialect = Dialect(tools, "none")
    async with speaking(model, tools) as driver:
        for rule in (CallRule(required=True, single=True), CallRule(required=True, name="add", single=True)):
            for said in await answers(driver, chat(rule, CLOSED)):
                assert said.failed is None
                assert said.ends[0].reason is FinishReason.STOP, said.text
                parts = told(said, dialect)
                ((name, arguments),) = calls(parts)
                assert fits(name, arguments), said.text
                assert not any(isinstance(part, Content) for part in parts)
                assert rule.name in (None, name)


async def test_several_calls_may_be_made_unless_one_alone_is_wanted(model: str) -> None:
    async with speaking(model, "hermes") as driver:
        found = [told(said, Dialect("hermes")) for said in await answers(driver, chat(CallRule(True), CLOSED))]
    counts = [sum(isinstance(part, Call) for part in parts) for parts in found]
    assert max(counts) > 1
    for parts in found:
        whole = parts[: max(place for place, part in enumerate(parts) if isinstance(part, Call))]  # the last may be cut
        assert all(fits(*call) for call in calls(whole))


async def test_reasoning_that_the_prompt_has_begun_goes_before_the_call(model: str) -> None:
    start = "<think>"
    async with speaking(model, "hermes", "think") as driver:
        said = (await answers(driver, chat(CallRule(required=True), CLOSED, start), tokens=40))[0]
        parts = told(said, Dialect("hermes", "think"), start)
    assert [type(part) for part in parts] == [Reasoning]


async def test_a_resumed_answer_goes_on_with_its_call(model: str) -> None:
    asked = chat(CallRule(required=True, single=True), CLOSED)
    sampling = {"temperature": 1.0, "seed": 5, "ignore_eos": False}
    async with speaking(model, "hermes") as driver:
        whole = await driver.ask(asked, tokens=400, sampling=sampling)
        for cut in range(1, len(whole.ids), 9):
            rest = await driver.ask(asked, tokens=400, sampling=sampling, resume={0: whole.ids[:cut]})
            assert rest.ids == whole.ids[cut:]


async def test_a_strict_tool_that_may_be_called_is_called_by_its_schema(model: str) -> None:
    """The answer has begun with the mark, as a random model never does by itself."""
    asked = chat(CallRule(), CLOSED)
    mark = "<tool_call>\n"
    async with speaking(model, "hermes") as driver:
        ids = await driver.engine.tokenize("", Text(mark), add_special_tokens=False)
        key = await driver.submit(
            asked, tokens=300, resume={0: ids}, sampling={"temperature": 1.0, "seed": 1, "ignore_eos": False}
        )
        said = await driver.answer(key)
    said.text[0] = mark + said.text[0]
    (first, *_) = calls(told(said, Dialect("hermes")))
    assert fits(*first)


@pytest.mark.parametrize(
    ("tools", "rule", "given", "param"),
    [
        ("none", CallRule(required=True), FUNCTIONS, "tool_choice"),
        (HARMONY, CallRule(single=True), FUNCTIONS, "tools"),
        ("hermes", CallRule(required=True), (Tool("f", "", {"type": "array"}),), "tools"),
        (
            "glm",
            CallRule(required=True),
            (Tool("f", "", {"properties": {"a": {"type": "string", "pattern": "x"}}}),),
            "tools",
        ),
        ("hermes", CallRule(required=True), (Tool("f", "", {"properties": {"a": {"type": "thing"}}}),), "tools"),
    ],
)
async def test_what_cannot_be_kept_to_is_refused_by_name(
    model: str, tools: str, rule: CallRule, given: tuple[Tool, ...], param: str
) -> None:
    async with speaking(model, tools) as driver:
        with pytest.raises(MeshError) as caught:
            await driver.ask(chat(rule, given))
    assert caught.value.param == param
    assert caught.value.kind in (ErrorKind.UNSUPPORTED, ErrorKind.INVALID_REQUEST)


async def test_an_answer_with_a_grammar_of_its_own_makes_no_calls(model: str) -> None:
    async with speaking(model, "hermes") as driver:
        said = await driver.ask(chat(CallRule(single=True)), constraint=Constraint("choice", ("yes", "no")))
    assert said.text[0] in ("yes", "no")


@pytest.fixture(scope="module")
def marked_tokenizer() -> Tokenizer:
    """One that has the marks of all dialects as special tokens."""
    hf = copy.deepcopy(make_tokenizer())
    marks = {mark for tools in TOOLS for mark in Dialect(tools, "think").tokens}
    hf.add_special_tokens({"additional_special_tokens": sorted(marks)})
    return Tokenizer(hf, (EOS,))


# Not pythonic: its calls are held to double quotes, which the test does not write.
WRITTEN = (
    *("hermes", "granite", "phi marked", "mistral", "deepseek", "deepseek bare"),
    *("harmony", "glm", "qwen_xml", "llama3_json"),
)


@pytest.mark.parametrize("writer", WRITTEN)
@pytest.mark.parametrize("begun", [False, True], ids=["reasoning allowed", "reasoning begun"])
def test_what_a_model_of_the_family_writes_is_allowed(marked_tokenizer: Tokenizer, writer: str, begun: bool) -> None:
    city = {"type": "string"}
    schema = {"type": "object", "properties": {"city": city, "days": {"type": "integer"}}, "required": ["city"]}
    asked = chat(CallRule(required=True), (Tool("get_weather", "", schema), Tool("write-file", "", {})))
    dialect = dialect_of(writer)
    dialect = Dialect(dialect.tools, "harmony" if dialect.tools == HARMONY else "think")
    text = answer(writer, "", "", [("get_weather", {"city": "Bern", "days": 3})])
    prompt = "<|assistant|>"
    if dialect.tools != HARMONY:
        text = "hm</think>\n\n" + text if begun else text
        prompt = "<think>" if begun else prompt
    elif begun:
        text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant" + text
    text = text.removesuffix("<|call|>")  # which ends the turn
    grammars = Grammars(marked_tokenizer, len(marked_tokenizer.hf), [EOS])
    prompt_ids = marked_tokenizer.encode(prompt, add_special_tokens=False)
    matcher = grammars.compile(grammars.of_calls(asked, dialect, prompt_ids))
    ids = marked_tokenizer.encode(text, add_special_tokens=False)
    assert set(ids) & marked_tokenizer.special_ids or writer == "llama3_json"
    assert matcher.replay([*ids, EOS]), matcher.state.get_error()
