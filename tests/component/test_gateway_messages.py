"""/v1/messages over real connections: Anthropic's SDK, the events of streams, failover, what is refused."""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import (
    Message,
    ModelInfo,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawContentBlockStopEvent,
    RawMessageDeltaEvent,
    RawMessageStartEvent,
    RawMessageStopEvent,
)
from pydantic import BaseModel

from gateway.anthropic.blocks import arguments_of
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from tests.component.anthropic_sdk import USER, asked, check, events_of, sdk
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import CAPABILITIES, FakeWorker
from tests.component.test_gateway_images import DATA_URL
from tests.component.test_gateway_keys import make_book
from tests.component.test_gateway_tokenizer import Tokenizing
from tests.component.test_gateway_tools import CALLS, CONTENT, REASONING, cut, reached, speak
from tests.harness import eventually
from tests.unit.dialect_texts import TOOLS

KINDS: dict[str, type[BaseModel]] = {
    "message_start": RawMessageStartEvent,
    "content_block_start": RawContentBlockStartEvent,
    "content_block_delta": RawContentBlockDeltaEvent,
    "content_block_stop": RawContentBlockStopEvent,
    "message_delta": RawMessageDeltaEvent,
    "message_stop": RawMessageStopEvent,
}
FUNCTIONS: list[Any] = [{"name": name, "input_schema": schema} for name, schema in TOOLS.items()]
THINK = {"type": "adaptive"}


async def post(gateway: GatewayUnderTest, path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    return await gateway.http.post(path, json=asked(**fields))


async def streamed(gateway: GatewayUnderTest, **fields: Any) -> list[Any]:
    response = await post(gateway, stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def gathered(events: list[Any]) -> dict[str, Any]:
    """The message that a client puts together, after the rules of the API."""
    message: dict[str, Any] = events[0]["message"]
    inputs: dict[int, str] = {}
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                delta, block = event["delta"], message["content"][-1]
                kind = delta.pop("type")
                if kind == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
                else:
                    assert (kind, block["type"]) in [("text_delta", "text")] + [
                        (each, "thinking") for each in ("thinking_delta", "signature_delta")
                    ]
                    for name, text in delta.items():
                        block[name] += text
            case "content_block_stop":
                block = message["content"][event["index"]]
                if block["type"] == "tool_use":
                    block["input"] = json.loads(inputs[event["index"]])
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case kind:
                assert kind in ("ping", "message_stop")
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    content = [{**block, "id": ""} if "id" in block else block for block in message["content"]]
    return {**message, "id": "", "content": content}


async def test_a_plain_answer_streamed_and_in_one_piece() -> None:
    worker = FakeWorker("a", pause=0)
    worker.script, worker.cached = ["Hel", "lo ", 'w"é\n'], 3
    async with worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        response = await post(gateway, system="be brief", temperature=0.5, top_p=0.9, top_k=3)
        events = await streamed(gateway)
    whole = check(Message, response.content)
    assert re.fullmatch("msg_[0-9a-f]{32}", whole.id)
    assert [block.text for block in whole.content] == ['Hello w"é\n']
    assert (whole.stop_reason, whole.stop_sequence) == ("end_turn", None)
    usage = whole.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (2, 3, 3)
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    for event in events:
        if event["type"] != "ping":
            check(KINDS[event["type"]], event)
    assert events[0]["message"]["usage"]["output_tokens"] == 0
    assert without_ids(gathered(events)) == without_ids(response.json())
    request = worker.starts[0].request
    assert [(each.role, each.parts[0].text) for each in request.chat.messages] == [
        ("system", "be brief"),
        ("user", "hi"),
    ]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.5, 0.9, 3, 100)


@pytest.mark.parametrize("writer", ["hermes", "mistral", "harmony", "llama3_json"])
async def test_thinking_text_and_calls_are_blocks(writer: str) -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        speak(worker, writer)
        whole = (await post(gateway, tools=FUNCTIONS, thinking=THINK, max_tokens=1000)).json()
        events = await streamed(gateway, tools=FUNCTIONS, thinking=THINK, max_tokens=1000)
    check(Message, json.dumps(whole))
    assert without_ids(gathered(events)) == without_ids(whole)
    blocks = whole["content"]
    assert (blocks[0]["type"], blocks[0]["thinking"]) == ("thinking", REASONING)
    assert blocks[0]["signature"]
    calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    assert calls == (CALLS[:1] if writer == "harmony" else CALLS)
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    assert texts in ([CONTENT], [])
    pattern = "toolu_[0-9a-z]{9}" if writer.startswith("mistral") else "toolu_[0-9a-z]{24}"
    assert all(re.fullmatch(pattern, block["id"]) for block in blocks if block["type"] == "tool_use")
    assert whole["stop_reason"] == "tool_use"
    assert whole["usage"]["output_tokens_details"]["thinking_tokens"] > 0


async def test_nobody_sees_thinking_that_was_not_asked_for() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        speak(worker, "hermes", calls=[])
        await gateway.add(worker)
        silent = [(await post(gateway)).json(), (await post(gateway, thinking={"type": "disabled"})).json()]
        omitted = (await post(gateway, thinking={"type": "adaptive", "display": "omitted"})).json()
        shown = (await post(gateway, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)).json()
        await post(gateway, output_config={"effort": "low"})
    assert [[block["type"] for block in each["content"]] for each in silent] == [["text"], ["text"]]
    assert [block["type"] for block in omitted["content"]] == ["thinking", "text"]
    assert omitted["content"][0]["thinking"] == ""
    # Of the whole reasoning, shown or not.
    assert omitted["content"][0]["signature"] == shown["content"][0]["signature"]
    assert shown["content"][0]["thinking"] == REASONING
    hints = [dict(start.request.chat.template_hints) for start in worker.starts]
    off, on = {"enable_thinking": False, "thinking": False}, {"enable_thinking": True, "thinking": True}
    assert hints == [off, off, on, {**on, "thinking_budget": 1024}, {**off, "reasoning_effort": "low"}]


@pytest.mark.parametrize(
    ("script", "fields", "reason", "sequence"),
    [
        (["a", "b", "c", "d"], {"max_tokens": 2}, "max_tokens", None),
        (["a"], {}, "end_turn", None),
    ],
)
async def test_why_an_answer_ended(
    script: list[str], fields: dict[str, Any], reason: str, sequence: str | None
) -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        worker.script = script
        await gateway.add(worker)
        whole = (await post(gateway, **fields)).json()
        (delta,) = [event["delta"] for event in await streamed(gateway, **fields) if event["type"] == "message_delta"]
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    assert delta == {"stop_reason": reason, "stop_sequence": sequence}


def ends_with(stop: str, reason: pb.FinishReason) -> Any:
    def alter(_: object, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        for event in events:
            if event.HasField("choice_finished"):
                event.choice_finished.stop_string, event.choice_finished.reason = stop, reason
        return events

    return alter


async def test_a_stop_sequence_is_told_and_the_end_of_the_context_too() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        worker.script = ["a", "b"]
        await gateway.add(worker)
        fields: dict[str, Any] = {"stop_sequences": ["x", "END"]}
        worker.alter = ends_with("END", pb.FINISH_REASON_STOP)
        stopped = (await post(gateway, **fields)).json()
        templates = (await post(gateway, stop_sequences=["x"])).json()
        worker.alter = ends_with("", pb.FINISH_REASON_LENGTH)
        full = (await post(gateway, max_tokens=3)).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "END")
    assert (templates["stop_reason"], templates["stop_sequence"]) == ("end_turn", None)
    assert full["stop_reason"] == "model_context_window_exceeded"
    assert list(worker.starts[0].request.sampling.stop) == ["x", "END"]


async def test_a_call_that_was_cut_off_has_what_came_whole() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        worker.script = cut('<tool_call>{"name": "f", "arguments": {"a": [1, {"b": "x,y"}], "c": "long', 9)
        worker.markup = pb.Markup(tool_parser="hermes")
        await gateway.add(worker)
        fields: dict[str, Any] = {"tools": [{"name": "f", "input_schema": {}}], "max_tokens": len(worker.script)}
        worker.alter = ends_with("", pb.FINISH_REASON_LENGTH)
        whole = (await post(gateway, **fields)).json()
    (call,) = whole["content"]
    assert call["input"] == {"a": [1, {"b": "x,y"}]}
    assert whole["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": ' + "[" * 100_000, {}),
        ('{"a": "\\ud800x", "b": "é"', {"a": "?x"}),
        ('{"a": [1, 2], "b": {"c": [3, "[', {"a": [1, 2], "b": {"c": [3]}}),
        ('{"a": "\\"}]", "b": 1, "c', {"a": '"}]', "b": 1}),
        ("[1]", {}),
    ],
)
def test_whatever_a_model_writes_as_arguments_is_an_input(text: str, found: dict[str, Any]) -> None:
    assert arguments_of(text) == found


TURNS: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "weather?", "cache_control": {"type": "ephemeral"}}]},
    {"role": "system", "content": "new rules"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "which city", "signature": "s"},
            {"type": "redacted_thinking", "data": "???"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_abcdefghi", "name": "get_weather", "input": {"city": "Bern", "days": 2}},
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_abcdefghi",
                "is_error": True,
                "content": [{"type": "text", "text": "rain"}],
            },
            {"type": "tool_result", "tool_use_id": "call_2"},
            {"type": "text", "text": "and now?"},
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
        ],
    },
]


async def test_a_conversation_reaches_the_worker_as_a_chat() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
        system = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        response = await post(gateway, messages=TURNS, system=system, tools=FUNCTIONS, tool_choice=choice)
        assert response.status_code == 200, response.text
        await post(gateway, tools=FUNCTIONS, tool_choice={"type": "any"})
        await post(gateway, tools=FUNCTIONS, tool_choice={"type": "none"})
        await post(gateway, messages=[*USER, {"role": "assistant", "content": "It is"}])
        schema: dict[str, Any] = {"type": "object", "properties": {"b": {}, "a": {}}}
        await post(gateway, output_config={"format": {"type": "json_schema", "schema": schema}})
    first, required, none, prefilled, constrained = [start.request for start in worker.starts]
    said = [(each.role, [part.text for part in each.parts], each.tool_call_id) for each in first.chat.messages]
    assert said == [
        ("system", ["one", "two"], ""),
        ("user", ["weather?"], ""),
        ("system", ["new rules"], ""),
        ("assistant", ["I look."], ""),
        ("tool", ["rain"], "abcdefghi"),
        ("tool", [""], "call_2"),
        ("user", ["and now?", "T\nD"], ""),
    ]
    assert first.chat.messages[3].reasoning == "which city"
    (call,) = first.chat.messages[3].tool_calls
    assert (call.id, call.name, call.arguments_json) == ("abcdefghi", "get_weather", '{"city":"Bern","days":2}')
    assert (first.chat.tool_choice.mode, first.chat.tool_choice.name) == (pb.ToolChoice.MODE_NAMED, "get_weather")
    assert first.chat.single_call
    assert json.loads(first.chat.tools[0].parameters_json) == TOOLS["get_weather"]
    assert required.chat.tool_choice.mode == pb.ToolChoice.MODE_REQUIRED
    assert none.chat.tool_choice.mode == pb.ToolChoice.MODE_NONE
    assert prefilled.chat.continue_final_message
    assert prefilled.chat.messages[-1].role == "assistant"
    assert constrained.constraint.json_schema == '{"type":"object","properties":{"b":{},"a":{}}}'


async def test_images_by_bytes_and_what_is_wrong_with_them() -> None:
    worker = FakeWorker("a", pause=0, capabilities=(*CAPABILITIES, pb.CAPABILITY_VISION))

    def image(data: str) -> list[Any]:
        source = {"type": "base64", "media_type": "image/png", "data": data}
        return [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image", "source": source}]}]

    async with worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        seen = await post(gateway, messages=image(DATA_URL.partition(",")[2]))
        broken = await post(gateway, system="s", messages=image("????"))
        counted = await post(gateway, "/v1/messages/count_tokens", messages=image("????"), max_tokens=None)
    assert seen.status_code == 200, seen.text
    (message,) = worker.starts[0].request.chat.messages
    assert message.parts[1].image.media_type == "image/png"
    assert "'messages[0].content[1].source'" in broken.json()["error"]["message"]
    assert counted.status_code == 400


@pytest.mark.parametrize("fields", [{"tools": FUNCTIONS, "thinking": THINK, "max_tokens": 1000}, {}])
async def test_a_worker_killed_at_every_token_is_not_noticed(fields: dict[str, Any]) -> None:
    async with FakeWorker("w", pause=0) as worker, GatewayUnderTest() as gateway:
        speak(worker, "hermes", reasoning="r", content="c", calls=[("get_weather", {"city": "é" * 4})])
        worker.script = cut("".join(worker.script), 9)
        await gateway.add(worker)
        expected = told_apart(await streamed(gateway, **fields))
    for after in range(1, len(worker.script)):
        async with FakeWorker("a", pause=0) as a, FakeWorker("b", pause=0) as b, GatewayUnderTest() as gateway:
            for each in (a, b):
                each.script, each.markup = worker.script, worker.markup
            a.stop_after = after
            await gateway.add(a)
            answer = asyncio.create_task(streamed(gateway, **fields))
            await eventually(partial(reached, a, after))
            await gateway.add(b)
            await a.kill()
            assert told_apart(await answer) == expected, after
            assert b.starts


def told_apart(events: list[Any]) -> Any:
    """The events but for ids, which differ between any two answers."""
    return json.loads(re.sub(r'"(msg|toolu)_[0-9a-z]+"', r'"\1"', json.dumps(events)))


async def test_a_client_that_comes_back_gets_the_events_that_it_lacks() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        speak(worker, "hermes", calls=CALLS[:1])
        await gateway.add(worker)
        body = asked(stream=True, tools=FUNCTIONS, thinking=THINK, max_tokens=1000)
        first = await gateway.http.post("/v1/messages", json=body, headers={"x-mesh-reconnect": "1"})
        events = re.findall(r"(?s)id: (\S+)\n(event: .*?\n\n)", first.text)
        for place in (0, 2, len(events) // 2, len(events) - 2):
            again = await gateway.http.post("/v1/messages", json=body, headers={"Last-Event-ID": events[place][0]})
            rest = [event for _, event in re.findall(r"(?s)id: (\S+)\n(event: .*?\n\n)", again.text)]
            assert rest == [event for _, event in events[place + 1 :]], place
        done = await gateway.http.post("/v1/messages", json=body, headers={"Last-Event-ID": events[-1][0]})
        assert done.status_code == 204


async def test_what_is_wrong_is_named_in_the_envelope_of_the_api() -> None:
    async with GatewayUnderTest() as gateway:
        response = await post(gateway, top_k=-1)
    body = response.json()
    assert response.status_code == 400
    assert list(body) == ["type", "error", "request_id"]
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["message"].startswith("'top_k' must be between 0")
    assert body["request_id"] == response.headers["request-id"]


async def test_errors_before_any_route_have_the_envelope_too() -> None:
    async with GatewayUnderTest(max_body_bytes=2000) as gateway:
        answers = [
            await gateway.http.get("/v1/messages"),
            await gateway.http.post("/v1/messages/batches/nothing"),
            await gateway.http.post("/v1/messages", content=b"{", headers={"content-type": "application/json"}),
            await gateway.http.post("/v1/messages", json=asked(system="x" * 3000)),
            await gateway.http.get("/v1/models/x", headers={"anthropic-version": "2023-06-01"}),
            await gateway.http.post("/v1/messages", json=asked(), headers={"anthropic-version": "2022-01-01"}),
        ]
    assert [(each.status_code, each.json()["error"]["type"]) for each in answers] == [
        (405, "invalid_request_error"),
        (404, "not_found_error"),
        (400, "invalid_request_error"),
        (413, "request_too_large"),
        (404, "not_found_error"),
        (400, "invalid_request_error"),
    ]


async def test_errors_come_as_the_exceptions_that_programs_catch() -> None:
    book, _, headers = make_book(models=("m", "x"))
    key = headers["authorization"].removeprefix("Bearer ")
    worker = FakeWorker("w")
    async with sdk(worker, book=book, key=key, queue_timeout=0.1) as client:

        async def caught(**fields: Any) -> anthropic.APIStatusError:
            create: Any = client.messages.create
            with pytest.raises(anthropic.APIStatusError) as error:
                await create(**asked(model=fields.pop("model", "m")), extra_body=fields)
            assert error.value.request_id
            return error.value

        found = [await caught(top=3), await caught(model="x"), await caught(model="y")]
        worker.refusal = MeshError(ErrorKind.OVERLOADED, "no room")
        found.append(await caught())
        client.api_key = "wrong"
        found.append(await caught())
    assert [(type(error), error.type) for error in found] == [
        (anthropic.BadRequestError, "invalid_request_error"),
        (anthropic.NotFoundError, "not_found_error"),
        (anthropic.PermissionDeniedError, "permission_error"),
        (anthropic.OverloadedError, "overloaded_error"),
        (anthropic.AuthenticationError, "authentication_error"),
    ]
    assert found[3].status_code == 529


async def test_an_error_within_a_stream_is_raised() -> None:
    worker = FakeWorker("w")
    async with sdk(worker, queue_timeout=0.1) as client:
        stream: Any = await client.messages.create(model="m", max_tokens=1000, messages=USER, stream=True)
        await anext(stream)
        await worker.kill()
        with pytest.raises(anthropic.APIStatusError) as caught:
            async for _ in stream:
                pass
    assert caught.value.type == "api_error"


async def test_silence_is_filled_with_pings() -> None:
    async with FakeWorker("a") as worker, GatewayUnderTest(stream_keep_alive=0.05) as gateway:
        worker.stop_after = 1
        await gateway.add(worker)
        pings = 0
        async with gateway.http.stream("POST", "/v1/messages", json=asked(stream=True)) as response:
            async for line in response.aiter_lines():
                pings += line == 'data: {"type":"ping"}'
                if pings == 3:
                    worker.stop_after = None
                    break


async def test_the_official_client_streams_and_counts() -> None:
    worker = Tokenizing("a")
    worker.gate.set()
    async with sdk(worker) as client:
        speak(worker, "hermes", calls=CALLS[:1])
        async with client.messages.stream(**asked(tools=FUNCTIONS, thinking=THINK, max_tokens=1000)) as stream:
            kinds = {event.type async for event in stream}
            final = await stream.get_final_message()
        assert {"thinking", "text", "input_json", "signature", "message_stop"} <= kinds
        assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
        assert final.content[2].input == CALLS[0][1]  # type: ignore[union-attr]
        counted = await client.messages.count_tokens(model="m", messages=USER, system="s", tools=FUNCTIONS)
        assert counted.input_tokens == 0  # that worker counts characters of texts alone
        # Its own answer goes back as the SDK has it.
        speak(worker, "hermes", reasoning="", content="Rain.", calls=[])
        result = {"type": "tool_result", "tool_use_id": final.content[2].id, "content": "rain"}  # type: ignore[union-attr]
        turns: list[Any] = [
            *USER,
            {"role": "assistant", "content": final.content},
            {"role": "user", "content": [result]},
        ]
        last = await client.messages.create(model="m", max_tokens=100, messages=turns, tools=FUNCTIONS)
        assert last.content[0].text == "Rain."  # type: ignore[union-attr]


class Weather(BaseModel):
    city: str
    days: int


async def test_the_official_client_parses_and_runs_tools() -> None:
    worker = FakeWorker("a", pause=0)
    seen: list[str] = []

    @anthropic.beta_async_tool
    async def get_weather(city: str, days: int) -> str:
        """The weather.

        Args:
            city: where
            days: how many
        """
        seen.append(f"{city} {days}")
        speak(worker, "hermes", reasoning="", content="Rain.", calls=[])
        return "rain"

    async with sdk(worker) as client:
        worker.script = ['{"city":', '"Bern","days":2}']
        parsed = await client.messages.parse(model="m", max_tokens=100, messages=USER, output_format=Weather)
        assert parsed.parsed_output == Weather(city="Bern", days=2)
        speak(worker, "hermes", calls=[("get_weather", {"city": "Bern", "days": 2})])
        runner = client.beta.messages.tool_runner(model="m", max_tokens=1000, messages=USER, tools=[get_weather])
        last = await runner.until_done()
    assert seen == ["Bern 2"]
    assert last.content[0].text == "Rain."  # type: ignore[union-attr]
    asked_last = [each.role for each in worker.starts[-1].request.chat.messages]
    assert asked_last == ["user", "assistant", "tool"]


async def test_the_synchronous_client() -> None:
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest() as gateway:
        worker.script = ["Hel", "lo"]
        await gateway.add(worker)

        def use() -> tuple[str, str]:
            with anthropic.Anthropic(base_url=gateway.url, auth_token="t", max_retries=0) as client:
                whole: Any = client.messages.create(model="m", max_tokens=9, messages=USER)
                with client.messages.stream(model="m", max_tokens=9, messages=USER) as stream:
                    return whole.content[0].text, "".join(stream.text_stream)

        assert await asyncio.to_thread(use) == ("Hello", "Hello")


async def test_models_in_the_shape_of_the_api_that_is_spoken() -> None:
    async with sdk(FakeWorker("a", models=("b/1", "b/2", "b/3"))) as client:
        raw = await client.models.with_raw_response.list(limit=2)
        page = await raw.parse()
        assert [model.id for model in page.data] == ["b/1", "b/2"]
        assert (page.has_more, page.first_id, page.last_id) == (True, "b/1", "b/2")
        for each in json.loads(await raw.read())["data"]:
            check(ModelInfo, json.dumps(each))
        assert [model.id async for model in client.models.list(limit=1)] == ["b/1", "b/2", "b/3"]
        before = await client.models.list(before_id="b/3", limit=1)
        assert [model.id for model in before.data] == ["b/2"]
        assert (await client.models.retrieve("b/2")).max_input_tokens == 4096
        with pytest.raises(anthropic.BadRequestError):
            await client.models.list(limit=0)
        with pytest.raises(anthropic.BadRequestError):
            await client.models.list(after_id="x")
        listed: Any = await client.get("/v1/models", cast_to=object, options={"headers": {"anthropic-version": ""}})
        assert listed["object"] == "list"
