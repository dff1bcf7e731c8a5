"""The scripted engine under a grammar: its script as far as the grammar allows it, then whatever ends soonest."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from mesh.dialects import Dialect
from mesh.engine.base import CallRule, Chat, Constraint, Finished, Message, Progress, Tool
from tests.unit.test_scripted import stage, text, token_ids

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "sky": {"enum": ["grey", "blue"]},
        "names": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    },
    "required": ["city", "days", "sky", "names"],
}
SHORTEST = '{"city": "Weather?", "days": 0, "sky": "blue", "names": ["Weather?", "Weather?"]}'
GOOD = '{"city": "Bern", "days": 12, "sky": "grey", "names": ["a", "é"]}'
LOOK = Tool("look", "", SCHEMA)
CALL = f'<tool_call>\n{{"name": "look", "arguments": {GOOD}}}\n</tool_call>'


def says(words: str, **chat: Any) -> Chat:
    return Chat((Message("user", (words,)),), **chat)


@pytest.mark.parametrize(
    ("words", "constraint", "expected"),
    [
        (GOOD, Constraint("json_schema", json.dumps(SCHEMA)), GOOD),
        (GOOD, Constraint("json_object"), GOOD),
        (
            "Weather?",
            Constraint("json_schema", json.dumps(SCHEMA)),
            SHORTEST.replace(": ", ":").replace(", ", ","),
        ),
        ("Weather?", Constraint("json_object"), "{}"),
        ('{"city": "Bern", "days": 1', Constraint("json_object"), '{"city": "Bern", "days": 1}'),
        ("yes!", Constraint("choice", ("no", "yes")), "yes"),
        ("abc", Constraint("regex", r"[a-z]{2,9}-\d+"), "abc-0"),
    ],
)
async def test_a_constraint_is_kept_to(words: str, constraint: Constraint, expected: str) -> None:
    async with stage(text="echo") as on:
        assert text(await on.answer(on.request(says(words), more={"constraint": constraint}))) == expected


@pytest.mark.parametrize(
    ("words", "rule", "expected"),
    [
        (CALL, CallRule(required=True), CALL),
        (CALL, CallRule(), CALL),
        (CALL * 2, CallRule(single=True), CALL),
        ("Weather?", CallRule(required=True), CALL.replace(GOOD, SHORTEST)),
        ("Weather?", CallRule(required=True, name="other"), CALL.replace(GOOD, "{}").replace("look", "other")),
        ("Weather?", CallRule(single=True), "Weather?"),
    ],
)
async def test_calls_that_are_demanded_are_made(words: str, rule: CallRule, expected: str) -> None:
    tools = (LOOK, Tool("other", "", {"type": "object"}))
    async with stage(text="echo", dialect=Dialect("hermes", "")) as on:
        assert text(await on.answer(on.request(says(words, tools=tools, call_rule=rule)))) == expected


async def test_choices_resume_where_they_were() -> None:
    more = {"constraint": Constraint("json_schema", json.dumps(SCHEMA))}
    async with stage(text="echo") as on:
        request = on.request(says(GOOD[:30]), more=more, n=2, min_tokens=100)
        ids = token_ids(await on.answer(request))
        for after in range(len(ids)):
            resumed = replace(on.request(says(GOOD[:30]), more=more, n=2), resume={1: Progress(tuple(ids[:after]))})
            events = await on.answer(resumed)
            assert token_ids(events, 1) == ids[after:]
            assert text(events, 0).startswith(GOOD[:30])


async def test_one_that_is_cancelled_before_its_grammar_is_ready_leaves_nothing() -> None:
    async with stage() as on:
        request = on.request(more={"constraint": Constraint("json_object")})
        submitted = asyncio.create_task(on.engine.submit(request))
        await asyncio.sleep(0)  # as far as the wait for the grammar
        on.engine.cancel(request.key)
        await submitted
        assert isinstance((await on.answer(on.request(more={"constraint": Constraint("json_object")})))[-1], Finished)
        assert not on.events(request.key)
        assert on.engine.stats()["rows_live"] == 0
