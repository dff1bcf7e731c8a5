"""Calls of tools and reasoning in chat answers: what clients see, streamed and in one piece, disturbed or not."""

from __future__ import annotations

import asyncio
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord
from mesh.worker.events import capabilities
from tests.component.gateway_fixture import GatewayUnderTest, without_identity
from tests.component.gateway_worker import FakeWorker
from tests.component.worker_rig import serving
from tests.harness import eventually
from tests.unit.dialect_texts import ALONE, TOOLS, WRITERS, answer, dialect_of

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": 'Zürich "Süd"', "days": 3}),
    ("get_weather", {"city": "Bern", "fine": None}),
]
FUNCTIONS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in TOOLS.items()
]
REASONING, CONTENT = "Which city?\nBoth.", "I look it up."
TRANSCRIPTS = Path(__file__).parent / "tool_transcripts.txt"


def cut(text: str, size: int = 3) -> list[str]:
    return [text[place : place + size] for place in range(0, len(text), size)]


def speak(
    worker: FakeWorker, writer: str, *, reasoning: str = REASONING, content: str = CONTENT, calls: Any = None
) -> None:
    """Let a worker answer in the dialect of `writer`; the prompt of harmony has begun a message."""
    made = CALLS if calls is None else calls
    if writer == "harmony":
        made = made[:1]
    content = "" if writer in ALONE and made else content
    dialect = dialect_of(writer)
    end = "<|start|>assistant" if writer == "harmony" else "<|assistant|>"
    worker.script = cut(answer(writer, reasoning, content, made))
    worker.markup = pb.Markup(tool_parser=dialect.tools, reasoning_parser=dialect.reasoning, prompt_end=end)


def gathered(events: list[Any]) -> dict[str, Any]:
    """The message that a client puts together from a stream, as one in one piece has it, and the reason of its end."""
    message: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    reason = None
    for event in events[:-1]:
        for choice in event["choices"]:
            delta = dict(choice["delta"])
            reason = choice["finish_reason"] or reason
            for part in delta.pop("tool_calls", ()):
                if part["index"] == len(calls):
                    calls.append({key: value for key, value in part.items() if key != "index"})
                else:
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
            for key, value in delta.items():
                message[key] = value if message.get(key) is None else message[key] + value
    return {**message, **({"tool_calls": calls} if calls else {}), "finish_reason": reason}


def in_one_piece(response: httpx.Response) -> dict[str, Any]:
    (choice,) = response.json()["choices"]
    return {**choice["message"], "finish_reason": choice["finish_reason"]}


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "tool_calls": [{**call, "id": ""} for call in message.get("tool_calls", ())]}


async def test_functions_are_called_in_their_earlier_form() -> None:
    name, arguments = CALLS[0]
    given = [{"name": each, "parameters": schema} for each, schema in TOOLS.items()]
    said = {"role": "assistant", "content": None, "function_call": {"name": name, "arguments": "{}"}}
    messages = [{"role": "user", "content": "hi"}, said, {"role": "function", "name": name, "content": "4 °C"}]
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        speak(worker, "hermes", reasoning="", calls=CALLS[:1])
        whole = in_one_piece(await gateway.chat(messages=messages, functions=given, function_call={"name": name}))
        events = await gateway.stream(messages=messages, functions=given, function_call="auto")
    assert (whole["finish_reason"], "tool_calls" in whole) == ("function_call", False)
    assert (whole["function_call"]["name"], json.loads(whole["function_call"]["arguments"])) == (name, arguments)
    deltas = [event["choices"][0]["delta"].get("function_call") for event in events[:-1]]
    first, *rest = [delta for delta in deltas if delta is not None]
    assert first == {"name": name, "arguments": ""}
    assert "".join(delta["arguments"] for delta in rest) == whole["function_call"]["arguments"]
    assert events[-2]["choices"][0]["finish_reason"] == "function_call"
    chat = worker.starts[0].request.chat
    assert (chat.tool_choice.mode, chat.tool_choice.name, chat.single_call) == (pb.ToolChoice.MODE_NAMED, name, True)
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool"]
    assert chat.messages[1].tool_calls[0].id == chat.messages[2].tool_call_id


async def test_every_family_says_the_same_streamed_and_in_one_piece() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        for writer in WRITERS:
            speak(worker, writer)
            whole = in_one_piece(await gateway.chat(tools=FUNCTIONS))
            streamed = gathered(await gateway.stream(tools=FUNCTIONS))
            assert without_ids(streamed) == without_ids(whole), writer
            assert whole["reasoning_content"] == whole["reasoning"] == REASONING, writer
            assert whole["content"] == (None if writer in ALONE else CONTENT), writer
            assert whole["finish_reason"] == "tool_calls", writer
            calls = [
                (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in whole["tool_calls"]
            ]
            assert calls == (CALLS[:1] if writer == "harmony" else CALLS), writer
            pattern = r"[a-z0-9]{9}" if writer.startswith("mistral") else r"call_[a-z0-9]{24}"
            assert all(re.fullmatch(pattern, call["id"]) for call in whole["tool_calls"]), writer


@pytest.mark.parametrize("writer", ["hermes", "harmony"])
async def test_a_worker_killed_in_the_middle_of_a_call_is_not_noticed(writer: str) -> None:
    fields = {"tools": FUNCTIONS, "stream_options": {"include_usage": True}}
    calls = [("get_weather", {"city": "é" * 4})]
    async with FakeWorker("w", pause=0) as worker, GatewayUnderTest() as gateway:
        speak(worker, writer, reasoning="r", content="", calls=calls)
        worker.script = cut("".join(worker.script), 7)
        await gateway.add(worker)
        expected = told_apart(await gateway.stream(**fields))
    for after in range(1, len(worker.script)):
        async with FakeWorker("a", pause=0) as a, FakeWorker("b", pause=0) as b, GatewayUnderTest() as gateway:
            for each in (a, b):
                each.script, each.markup = worker.script, worker.markup
            a.stop_after = after
            await gateway.add(a)
            streamed = asyncio.create_task(gateway.stream(**fields))
            await eventually(partial(reached, a, after))
            await gateway.add(b)
            await a.kill()
            assert told_apart(await streamed) == expected, after
            assert b.starts


def reached(worker: FakeWorker, tokens: int) -> bool:
    return any(len(row.tokens[0]) >= tokens for row in worker.rows.values())


def told_apart(events: list[Any]) -> list[Any]:
    """The events but for ids, which differ between any two answers."""
    text = re.sub(r'"(call_[a-z0-9]{24})"', '"call"', json.dumps(without_identity(events)))
    return json.loads(text)


async def test_usage_counts_the_tokens_of_the_reasoning() -> None:
    async with FakeWorker("a") as worker, GatewayUnderTest() as gateway:
        worker.script = ["<think>", "one", " two", "</think>", "\n\n", "answer"]
        worker.markup = pb.Markup(reasoning_parser="think")
        await gateway.add(worker)
        whole = (await gateway.chat()).json()
        events = await gateway.stream(stream_options={"include_usage": True, "continuous_usage_stats": True})
    details = {"reasoning_tokens": 4}
    assert whole["usage"]["completion_tokens_details"] == details
    assert events[-2]["usage"] == whole["usage"]
    running = [event["usage"]["completion_tokens"] for event in events[:-1]]
    assert running == sorted(running)
    assert (running[0], running[-1]) == (0, 6)


async def test_reasoning_can_be_left_away_or_left_in_the_text() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest(reasoning_field="reasoning") as gateway:
        speak(worker, "hermes", reasoning="r", content="c", calls=[])
        await gateway.add(worker)
        told = in_one_piece(await gateway.chat())
        hidden = in_one_piece(await gateway.chat(include_reasoning=False))
        left = in_one_piece(await gateway.chat(separate_reasoning=False))
    assert (told["content"], told["reasoning"], "reasoning_content" in told) == ("c", "r", False)
    assert (hidden["content"], "reasoning" in hidden) == ("c", False)
    assert left["content"] == "<think>\nr\n</think>\n\nc"


async def test_calls_are_looked_for_only_where_tools_may_be_called() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        speak(worker, "hermes", reasoning="", content="")
        await gateway.add(worker)
        for fields in ({}, {"tools": FUNCTIONS, "tool_choice": "none"}):
            message = in_one_piece(await gateway.chat(**fields))
            assert message["content"] == "".join(worker.script)
            assert "tool_calls" not in message
        modes = [start.request.chat.tool_choice.mode for start in worker.starts]
        assert modes == [pb.ToolChoice.MODE_UNSPECIFIED, pb.ToolChoice.MODE_NONE]


async def test_what_is_asked_of_calls_reaches_the_worker() -> None:
    name = {"type": "function", "function": {"name": "write-file"}}
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        for choice in (
            "required",
            name,
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [name]}},
        ):
            await gateway.chat(tools=FUNCTIONS, tool_choice=choice, parallel_tool_calls=False, reasoning_effort="low")
        chats = [start.request.chat for start in worker.starts]
    modes = pb.ToolChoice
    assert [chat.tool_choice.mode for chat in chats] == [modes.MODE_REQUIRED, modes.MODE_NAMED, modes.MODE_REQUIRED]
    assert [[tool.name for tool in chat.tools] for chat in chats] == [list(TOOLS), list(TOOLS), ["write-file"]]
    assert chats[1].tool_choice.name == "write-file"
    assert all(chat.single_call and chat.reasoning_effort == "low" for chat in chats)
    assert json.loads(chats[0].tools[0].parameters_json) == TOOLS["get_weather"]


class Weather(BaseModel):
    city: str
    days: int


async def test_the_official_client_streams_parses_and_answers_calls() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        speak(worker, "hermes", calls=CALLS[:1])
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
            messages: list[Any] = [{"role": "user", "content": "weather?"}]
            tool = openai.pydantic_function_tool(Weather, name="get_weather")
            async with client.chat.completions.stream(model="m", messages=messages, tools=[tool]) as stream:
                kinds = [event.type async for event in stream]
                final = (await stream.get_final_completion()).choices[0]
            parsed = await client.chat.completions.parse(model="m", messages=messages, tools=[tool])
            assert kinds.count("tool_calls.function.arguments.delta") > 1
            assert final.message.tool_calls
            assert parsed.choices[0].message.tool_calls
            for call in (final.message.tool_calls[0], parsed.choices[0].message.tool_calls[0]):
                assert call.function.parsed_arguments == Weather(city='Zürich "Süd"', days=3)
            speak(worker, "hermes", reasoning="", content="Rain.", calls=[])
            call = final.message.tool_calls[0]
            messages += [final.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
            last = await client.chat.completions.create(model="m", messages=messages, tools=[tool])
        assert last.choices[0].message.content == "Rain."
    asked = worker.starts[-1].request.chat.messages
    assert [message.role for message in asked] == ["user", "assistant", "tool"]
    assert asked[1].tool_calls[0].id == asked[2].tool_call_id == call.id


ONE = CALLS[:1]
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "content alone, tools offered": ("hermes", {"reasoning": "", "calls": []}, {"tools": FUNCTIONS}),
    "a call alone": ("hermes", {"reasoning": "", "content": "", "calls": ONE}, {"tools": FUNCTIONS}),
    "content and a call": ("hermes", {"reasoning": "", "calls": ONE}, {"tools": FUNCTIONS}),
    "two calls": ("hermes", {"reasoning": "", "content": ""}, {"tools": FUNCTIONS}),
    "reasoning and content": ("hermes", {"calls": []}, {}),
    "reasoning, content and a call": ("hermes", {"calls": ONE}, {"tools": FUNCTIONS}),
    "reasoning left away": ("hermes", {"calls": []}, {"include_reasoning": False}),
    "reasoning left in the text": (
        "hermes",
        {"reasoning": "r", "content": "c", "calls": []},
        {"separate_reasoning": False},
    ),
    "cut in the reasoning": ("hermes", {}, {"tools": FUNCTIONS, "max_tokens": 5}),
    "cut in a call": ("hermes", {"reasoning": "", "content": "", "calls": ONE}, {"tools": FUNCTIONS, "max_tokens": 21}),
    "tool_choice none": (
        "hermes",
        {"reasoning": "", "content": "c", "calls": ONE},
        {"tools": FUNCTIONS, "tool_choice": "none"},
    ),
    "usage at the end": ("hermes", {"content": "", "calls": []}, {"stream_options": {"include_usage": True}}),
    "usage in every chunk": (
        "hermes",
        {"content": "c", "calls": []},
        {"stream_options": {"continuous_usage_stats": True}},
    ),
    "log probabilities": ("hermes", {"reasoning": "r", "content": "c", "calls": []}, {"logprobs": True}),
    "two choices": ("hermes", {"reasoning": "", "content": "", "calls": ONE}, {"tools": FUNCTIONS, "n": 2}),
    "harmony": ("harmony", {}, {"tools": FUNCTIONS}),
    "mistral": ("mistral", {"calls": ONE}, {"tools": FUNCTIONS}),
}


async def transcript(gateway: GatewayUnderTest, fields: dict[str, Any]) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 7, "stream": True, **fields}
    raw = (await gateway.http.post("/v1/chat/completions", json=body)).text
    raw = re.sub(r'"id":"chatcmpl-[0-9a-f]{32}"', '"id":"chatcmpl-X"', raw)
    raw = re.sub(r'"id":"(call_)?[0-9a-f]{9,24}"', r'"id":"\1X"', raw)
    return re.sub(r'"created":\d+', '"created":0', raw)


async def test_streams_are_byte_for_byte_as_they_were() -> None:
    """MESH_WRITE_TRANSCRIPTS=1 writes the file anew, to be read before it is committed."""
    found: list[str] = []
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        for title, (writer, spoken, fields) in SHAPES.items():
            speak(worker, writer, **spoken)
            found.append(f"### {title}\n\n{await transcript(gateway, fields)}")
    if os.environ.get("MESH_WRITE_TRANSCRIPTS"):
        TRANSCRIPTS.write_text("".join(found), encoding="utf-8")
    expected = re.split(r"(?m)^(?=### )", TRANSCRIPTS.read_text(encoding="utf-8"))[1:]
    assert found == expected


@pytest.mark.parametrize("writer", ["hermes", "glm", "harmony"])
async def test_a_real_worker_says_how_its_answers_are_to_be_read(writer: str, tmp_path: Path) -> None:
    text = tmp_path / "answer.txt"
    text.write_text(answer(writer, REASONING, CONTENT, CALLS[:1]), encoding="utf-8")
    options = ScriptedOptions(name="m", text=str(text), dialect=dialect_of(writer))
    async with serving(ScriptedEngine(options)) as rig, GatewayUnderTest() as gateway:
        identity, (model,) = rig.server.identity, rig.server.engine.models
        record = WorkerRecord(
            worker_id=identity.worker_id,
            incarnation=identity.incarnation,
            address=f"127.0.0.1:{rig.port}",
            slots=8,
            state=WORKER_STATE_READY,
            models=[ServedModel(name="m", fingerprint=model.fingerprint, capabilities=capabilities(model))],
        )
        gateway.directory.on_worker(identity.worker_id, record)
        await eventually(lambda: gateway.session(identity.worker_id))
        whole = in_one_piece(await gateway.chat(tools=FUNCTIONS))
        streamed = gathered(await gateway.stream(tools=FUNCTIONS))
    assert without_ids(streamed) == without_ids(whole)
    assert (whole["reasoning"], whole["content"], whole["finish_reason"]) == (REASONING, CONTENT, "tool_calls")
    (call,) = whole["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == CALLS[0]
