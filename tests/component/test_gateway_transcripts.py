"""Whole streams, byte for byte as they were: what each API writes for each shape of request.

The files in transcripts/ are the streams themselves, a title before each; ids and times, which differ between any two
answers, are made equal. MESH_WRITE_TRANSCRIPTS=1 writes them anew, to be read before they are committed. The calls and
reasoning of chats in each family's dialect are in test_gateway_tools.py.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ErrorKind
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker, Row
from tests.harness import eventually

FOLDER = Path(__file__).parent / "transcripts"
HI = [{"role": "user", "content": "hi"}]
PLAIN = (" The", " sea", " is", ' "blü".')
THINKS = ("<think>", "hm", "</think>", "\n\n", "blue")
CALLS = ("<tool_call>\n", '{"name": "look", ', '"arguments": {"at": ', '"sea"}}', "\n</tool_call>")
THOUGHT_AND_CALL = (*THINKS[:3], *CALLS)
HERMES = pb.Markup(tool_parser="hermes", reasoning_parser="think")
SCHEMA = {"type": "object", "properties": {"sea": {"type": "string"}}}
USAGE = {"stream_options": {"include_usage": True}}
FUNCTION = {"name": "look", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
Alter = Callable[[Row, list[pb.StreamEvent]], list[pb.StreamEvent]]


@dataclass(frozen=True)
class Shape:
    """What is asked, what the model writes, and what becomes of the worker's events."""

    body: dict[str, Any]
    script: tuple[str, ...] = PLAIN
    alter: Alter = field(default=lambda _, events: events)

    def given_to(self, worker: FakeWorker) -> None:
        """Let a worker write this."""
        worker.script, worker.alter, worker.markup = self.script, self.alter, HERMES


def breaks(after: int) -> Alter:
    """The stream fails once it has so many tokens, and no other worker could go on."""
    failure = pb.Failure(code=ErrorKind.INVALID_REQUEST.value.code, message="the grammar became too complex")

    def alter(row: Row, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        if len(row.tokens[0]) <= after:
            return events
        row.finished = [True]
        return [pb.StreamEvent(stream_id=row.id, failed=failure)]

    return alter


def stops_at(stop: str) -> Alter:
    """The choices end with this stop sequence."""

    def alter(_: Row, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        for event in events:
            if event.HasField("choice_finished"):
                event.choice_finished.reason = pb.FINISH_REASON_STOP
                event.choice_finished.stop_string = stop
        return events

    return alter


CHAT = {
    "plain": Shape({}),
    "cut off by max_tokens": Shape({"max_completion_tokens": 2}),
    "a stop string": Shape({"stop": ["sky"]}, alter=stops_at("sky")),
    "usage at the end": Shape(USAGE),
    "usage in every chunk": Shape({"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
    "two choices": Shape({"n": 2, "max_tokens": 2}),
    "log probabilities": Shape({"logprobs": True, "top_logprobs": 0, "max_tokens": 2}),
    "token ids": Shape({"return_token_ids": True, "max_tokens": 4}),
    "token ids of reasoning and a call": Shape({"return_token_ids": True, "tools": [TOOL]}, THOUGHT_AND_CALL),
    "JSON by a schema": Shape(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
        ('{"sea":', ' "blue"', "}"),
    ),
    "JSON by a schema after reasoning": Shape(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
        (*THINKS[:4], '{"sea":', ' "blue"', "}"),
    ),
    "a message that is continued": Shape(
        {
            "messages": [*HI, {"role": "assistant", "content": "The sea"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
        (" is", " blue"),
    ),
    "an answer of no text": Shape({}, ("",)),
    "an error after the first byte": Shape(USAGE, alter=breaks(2)),
}
COMPLETIONS = {
    "plain": Shape({"prompt": "hi"}),
    "usage at the end": Shape({"prompt": "hi", **USAGE}),
    "echo": Shape({"prompt": "hi", "echo": True, "max_tokens": 2}),
    "echo with log probabilities": Shape({"prompt": "hi", "echo": True, "logprobs": 0, "max_tokens": 2}),
    "token ids": Shape({"prompt": "hi", "n": 1, "max_tokens": 2, "return_token_ids": True}),
    "two prompts": Shape({"prompt": ["hi", "ho"], "max_tokens": 1, **USAGE}),
    "two choices": Shape({"prompt": "hi", "n": 2, "max_tokens": 1}),
    "an error after the first byte": Shape({"prompt": "hi"}, alter=breaks(2)),
}
RESPONSES = {
    "plain": Shape({"input": "hi"}),
    "cut off by max_output_tokens": Shape({"input": "hi", "max_output_tokens": 16}, (*PLAIN * 4, "x")),
    "reasoning and a text": Shape({"input": "hi"}, THINKS),
    "reasoning and a call": Shape({"input": "hi", "tools": [{"type": "function", **FUNCTION}]}, THOUGHT_AND_CALL),
    "JSON by a schema": Shape(
        {"input": "hi", "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}}},
        ('{"sea":', ' "blue"', "}"),
    ),
    "an error after the first byte": Shape({"input": "hi"}, alter=breaks(2)),
}
MESSAGES = {
    "plain": Shape({}),
    "cut off by max_tokens": Shape({"max_tokens": 2}),
    "a stop sequence": Shape({"stop_sequences": ["sky"]}, alter=stops_at("sky")),
    "thinking and a text": Shape({"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}, THINKS),
    "a call": Shape({"tools": [{"name": "look", "input_schema": SCHEMA}]}, CALLS),
    "an error after the first byte": Shape({}, alter=breaks(2)),
}
APIS: dict[str, tuple[str, dict[str, Any], dict[str, Shape]]] = {
    "chat": ("/v1/chat/completions", {"messages": HI, "seed": 7}, CHAT),
    "completions": ("/v1/completions", {"seed": 7, "max_tokens": 9}, COMPLETIONS),
    "responses": ("/v1/responses", {}, RESPONSES),
    "messages": ("/v1/messages", {"messages": HI, "max_tokens": 9}, MESSAGES),
}


def transcripts(api: str) -> list[str]:
    """Those of the file, each with its title."""
    return re.split(r"(?m)^(?=### )", (FOLDER / f"{api}.txt").read_text(encoding="utf-8"))[1:]


async def streamed(gateway: GatewayUnderTest, path: str, body: dict[str, Any]) -> str:
    """The bytes of a stream but for its ids and times."""
    answer = await gateway.http.post(path, json={"model": "m", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    return without_identity(answer.text)


def reached(worker: FakeWorker, tokens: int) -> bool:
    """Whether a row of the worker has so many tokens."""
    return any(len(row.tokens[0]) >= tokens for row in worker.rows.values())


def without_identity(raw: str) -> str:
    """A stream but for its ids and times."""
    raw = re.sub(r'"([a-z]+[-_])[0-9A-Za-z]{16,}"', r'"\1X"', raw)
    return re.sub(r'"(created|created_at|completed_at)":[0-9.]+', r'"\1":0', raw)


@pytest.mark.parametrize("api", APIS)
async def test_streams_are_byte_for_byte_as_they_were(api: str) -> None:
    path, common, shapes = APIS[api]
    found: list[str] = []
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        for title, shape in shapes.items():
            shape.given_to(worker)
            found.append(f"### {title}\n\n{await streamed(gateway, path, {**common, **shape.body})}")
    file = FOLDER / f"{api}.txt"
    if os.environ.get("MESH_WRITE_TRANSCRIPTS"):
        file.write_text("".join(found), encoding="utf-8")
    assert found == transcripts(api)


# Of two choices, which is told first may change with the worker.
DRILLS = [
    ("chat", "usage in every chunk"),
    ("chat", "log probabilities"),
    ("chat", "token ids of reasoning and a call"),
    ("chat", "JSON by a schema after reasoning"),
    ("completions", "echo with log probabilities"),
    ("responses", "reasoning and a call"),
    ("messages", "thinking and a text"),
    ("messages", "a call"),
]


@pytest.mark.parametrize(("api", "title"), DRILLS, ids=[f"{api}, {title}" for api, title in DRILLS])
async def test_a_worker_killed_after_any_token_changes_no_byte(api: str, title: str) -> None:
    path, common, shapes = APIS[api]
    shape = shapes[title]
    body = {**common, **shape.body}
    expected = next(text for text in transcripts(api) if text.startswith(f"### {title}\n"))
    for after in range(min(len(shape.script), body.get("max_tokens", 99))):
        async with FakeWorker("a", pause=0) as a, FakeWorker("b", pause=0) as b, GatewayUnderTest() as gateway:
            for worker in (a, b):
                shape.given_to(worker)
            a.stop_after = after
            await gateway.add(a)
            answer = asyncio.create_task(streamed(gateway, path, body))
            await eventually(partial(reached, a, after))
            await gateway.add(b)
            await a.kill()
            assert f"### {title}\n\n{await answer}" == expected, after
            assert b.starts
