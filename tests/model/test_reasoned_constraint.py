"""Grammars of models that reason first: they begin behind the reasoning, and hold nothing before."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from mesh.dialects import HARMONY, Dialect
from mesh.engine.base import Chat, Constraint, FinishReason, Message, Text
from mesh.engine.constraint import Grammars
from mesh.engine.text import Tokenizer
from tests.model.driver import Driver
from tests.model.tiny import EOS, make_tokenizer, save

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{{ start }}"
SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
)
KINDS = [
    (Constraint("json_schema", SCHEMA, reasoned=True), '{"a": 1}', '{"b'),
    (Constraint("json_object", reasoned=True), '{"x": [1]}', "[1"),
    (Constraint("regex", "ab+", reasoned=True), "abb", "b"),
    (Constraint("grammar", 'start: one\none: "x" | "TEXT"', reasoned=True), "TEXT", "y"),
    (Constraint("choice", ("yes", "no"), reasoned=True), "no", "maybe"),
]
HARMONY_THOUGHT = '<|channel|>analysis<|message|>is {"b" it?<|end|><|start|>assistant'
HARMONY_FINAL = "<|channel|>final<|message|>"


@pytest.fixture(scope="module", params=["special tokens", "text"])
def grammars(request: pytest.FixtureRequest) -> tuple[Grammars, Tokenizer]:
    """With tokenizers that have the marks as special tokens, or as any text."""
    hf = copy.deepcopy(make_tokenizer())
    if request.param == "special tokens":
        marks = {mark for reasoning in ("think", "mistral", HARMONY) for mark in Dialect("", reasoning).tokens}
        hf.add_special_tokens({"additional_special_tokens": sorted(marks)})
    tokenizer = Tokenizer(hf, (EOS,))
    return Grammars(tokenizer, len(hf), [EOS]), tokenizer


def allows(
    grammars: tuple[Grammars, Tokenizer], constraint: Constraint, reasoning: str, prompt: str, text: str
) -> bool:
    """Whether the output may be this text."""
    compiler, tokenizer = grammars
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    matcher = compiler.compile(compiler.after_reasoning(constraint, Dialect("", reasoning), ids))
    return matcher.replay([*tokenizer.encode(text, add_special_tokens=False), EOS])


@pytest.mark.parametrize(("constraint", "right", "wrong"), KINDS, ids=[kind.kind for kind, _, _ in KINDS])
@pytest.mark.parametrize(
    ("reasoning", "begin", "end"), [("think", "<think>", "</think>"), ("mistral", "[THINK]", "[/THINK]")]
)
def test_the_grammar_begins_behind_the_reasoning(
    grammars: tuple[Grammars, Tokenizer],
    constraint: Constraint,
    right: str,
    wrong: str,
    reasoning: str,
    begin: str,
    end: str,
) -> None:
    thought = f'\nis it {{"b" or {right}?\n{end}\n\n'

    def may(text: str, prompt: str = "hi") -> bool:
        return allows(grammars, constraint, reasoning, prompt, text)

    assert may(f"{begin}{thought}{right}")
    assert may(right), "it need not reason"
    assert may(f"{thought}{right}", f"hi{begin}\n"), "the prompt has begun it"
    assert may(right, f"hi{begin}\n\n{end}\n\n"), "the prompt has ended it"
    assert not may(f"{begin}{thought}{wrong}")
    assert not may(wrong)
    assert not may(f"{begin}\nhm"), "reasoning is no answer"
    assert not may(f"{begin}{thought}{right}", f"hi{begin}\n\n{end}\n\n"), "there is none after its end"


@pytest.mark.parametrize("grammars", ["special tokens"], indirect=True)  # as the models of this format have
@pytest.mark.parametrize(("constraint", "right", "wrong"), KINDS, ids=[kind.kind for kind, _, _ in KINDS])
def test_harmony_answers_in_its_final_channel(
    grammars: tuple[Grammars, Tokenizer], constraint: Constraint, right: str, wrong: str
) -> None:
    def may(text: str) -> bool:
        return allows(grammars, constraint, HARMONY, "<|start|>assistant", text)

    assert may(f"{HARMONY_FINAL}{right}")
    assert may(f"{HARMONY_THOUGHT}{HARMONY_FINAL}{right}")
    assert not may(f"{HARMONY_THOUGHT}{HARMONY_FINAL}{wrong}")
    assert not may(right)


def test_models_that_do_not_reason_are_held_from_the_first_token(grammars: tuple[Grammars, Tokenizer]) -> None:
    constraint, right, _ = KINDS[0]
    assert allows(grammars, constraint, "", "hi<think>", right)
    assert not allows(grammars, constraint, "none", "hi", f"<think>hm</think>{right}")
    unreasoned = Constraint("json_schema", SCHEMA)
    assert not allows(grammars, unreasoned, "think", "hi", f"<think>hm</think>{right}")


async def test_a_resumed_answer_goes_on_behind_its_reasoning(tmp_path: Path) -> None:
    """The answer has ended its reasoning, as a random model never does by itself."""
    asked = Chat((Message("user", ("hi",)),), template_arguments={"start": "<think>"})
    sampling = {"temperature": 1.0, "seed": 5, "ignore_eos": False}
    constraint = Constraint("regex", "[xyz]{20}", reasoned=True)
    parsers = {"tool_parser": "none", "reasoning_parser": "think"}
    model = save(tmp_path, "Llama", max_position_embeddings=512)[0]
    async with Driver(model, chat_template=TEMPLATE, model=parsers) as driver:
        thought = await driver.engine.tokenize("", Text("hm</think>\n"), add_special_tokens=False)

        async def go_on(said: list[int]) -> tuple[list[int], str, FinishReason]:
            key = await driver.submit(asked, tokens=200, resume={0: said}, sampling=sampling, constraint=constraint)
            found = await driver.answer(key)
            assert found.failed is None
            return found.ids, found.text[0], found.ends[0].reason

        ids, text, reason = await go_on(thought)
        assert reason is FinishReason.STOP
        text = text.strip()  # white space may come between
        assert len(text) == 20
        assert set(text) <= set("xyz")
        for cut in range(1, len(ids), 4):
            assert (await go_on([*thought, *ids[:cut]]))[0] == ids[cut:]
