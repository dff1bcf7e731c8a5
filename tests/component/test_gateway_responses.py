"""The Responses API, strictly by the official SDK's types."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from pydantic import RootModel
from sqlalchemy import select

from gateway.store.tables import Event, Record
from mesh.keys import new_key
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.component.test_gateway_keys import make_book, make_book_of
from tests.component.test_gateway_sdk import check
from tests.harness import eventually

WORDS = tuple(f' wörd"{place}' for place in range(12))
TEXT = "".join(WORDS)
WEATHER = {"type": "function", "name": "f", "parameters": {"type": "object"}}


class AnyEvent(RootModel[ResponseStreamEvent]):
    """Whichever event."""


class AnyItem(RootModel[ResponseItem]):
    """Whichever item."""


@asynccontextmanager
async def serving(worker: FakeWorker | None = None, **settings: Any) -> AsyncGenerator[GatewayUnderTest]:
    worker = worker or talker()
    async with worker, GatewayUnderTest(**settings) as gateway:
        await gateway.add(worker)
        yield gateway


def talker(*script: str) -> FakeWorker:
    """A worker that says these words."""
    worker = FakeWorker("w")
    worker.script = script or WORDS
    return worker


def ask(input: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": input, "seed": 7, **fields}


async def create(gateway: GatewayUnderTest, input: Any = "hi", **fields: Any) -> Any:
    """A response in one piece, by the SDK's type."""
    raw = await gateway.http.post("/v1/responses", json=ask(input, **fields))
    assert raw.status_code == 200, raw.text
    return check(Response, raw.content)


async def stream(gateway: GatewayUnderTest, input: Any = "hi", **fields: Any) -> list[Any]:
    """The events of a stream, each by the SDK's type."""
    raw = await gateway.http.post("/v1/responses", json=ask(input, stream=True, **fields))
    assert raw.status_code == 200, raw.text
    return events_of(raw)


def events_of(raw: httpx.Response) -> list[Any]:
    """Each event under its own name, counted."""
    found: list[Any] = []
    for block in raw.text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith((":", "id: "))]
        if not lines:
            continue
        name, data = lines
        # OpenAI's document has this name, its SDK does not.
        also = frozenset({"name"} if "arguments.done" in name else ())
        event = check(AnyEvent, data.removeprefix("data: "), also=also).root
        assert name == f"event: {event.type}"
        found.append(event)
    return found


def thinker(*script: str) -> FakeWorker:
    """A worker that thinks and calls functions in Hermes' way."""
    worker = talker(*script)
    worker.markup = pb.Markup(tool_parser="hermes", reasoning_parser="think")
    return worker


THOUGHT = ("<think>", "let me", " see", "</think>")
CALL = (*THOUGHT, "Well", "<tool_call>", '{"name": "f", "arguments": ', '{"a": 1}}', "</tool_call>")


async def test_a_text_in_one_piece() -> None:
    async with serving() as gateway:
        answer = await create(gateway, metadata={"k": "v"}, instructions="Be brief.", temperature=0.5)
        assert answer.output_text == TEXT
        assert (answer.status, answer.temperature, answer.metadata) == ("completed", 0.5, {"k": "v"})
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (5, 12, 17)
        short = await create(gateway, max_output_tokens=16, stop=["never"])
        assert short.output_text == TEXT
    assert answer.completed_at >= answer.created_at


async def test_an_answer_that_was_cut_is_incomplete() -> None:
    worker = FakeWorker("w", length=40)
    async with serving(worker) as gateway:
        answer = await create(gateway, max_output_tokens=20)
        assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert answer.output[0].status == "incomplete"
        last = (await stream(gateway, max_output_tokens=20))[-1]
        assert (last.type, last.response.usage.output_tokens) == ("response.incomplete", 20)


async def test_the_events_of_a_text_add_up_to_the_response() -> None:
    async with serving() as gateway:
        events = await stream(gateway, include=["message.output_text.logprobs"], top_logprobs=0)
        whole = await create(gateway, include=["message.output_text.logprobs"])
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    head = ["created", "in_progress", "output_item.added", "content_part.added"]
    tail = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds == [*head, *["output_text.delta"] * len(deltas), *tail]
    assert "".join(event.delta for event in deltas) == TEXT
    assert sum(len(event.logprobs) for event in deltas) == len(events[-4].logprobs) == 12
    last = events[-1].response
    assert last.output_text == whole.output_text == TEXT
    assert last.output[0].content[0].logprobs == whole.output[0].content[0].logprobs
    assert {event.response.id for event in (*events[:2], events[-1])} == {last.id}


@pytest.mark.parametrize("summary", [None, "auto"])
async def test_reasoning_and_calls(summary: str | None) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER], "reasoning": {"effort": None, "summary": summary}}
    asked["include"] = ["reasoning.encrypted_content"]
    async with serving(thinker(*CALL)) as gateway:
        events = await stream(gateway, **asked)
        whole = await create(gateway, **asked)
        thought, message, call = whole.output
        assert (call.name, json.loads(call.arguments), call.status) == ("f", {"a": 1}, "completed")
        assert message.content[0].text == "Well"
        told = thought.summary if summary else thought.content
        assert [part.text for part in told] == ["let me see"]
        assert [item.type for item in events[-1].response.output] == ["reasoning", "message", "function_call"]
        assert whole.usage.output_tokens_details.reasoning_tokens == 4
        # What came out goes in again, as clients without a store do it.
        items = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in whole.output)]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
        await create(gateway, items, store=False, **asked)
    kinds = [event.type.removeprefix("response.") for event in events]
    told = ["reasoning_summary_text.delta"] * 2 if summary else ["reasoning_text.delta"] * 2
    assert [kind for kind in kinds if kind.startswith("reasoning") and kind.endswith("delta")] == told
    arguments = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(arguments)) == {"a": 1}


async def sent(worker: FakeWorker) -> list[Any]:
    """The messages of the last chat that the worker was given: role, text, reasoning, calls."""
    return [
        (message.role, "".join(part.text for part in message.parts), message.reasoning, len(message.tool_calls))
        for message in worker.starts[-1].request.chat.messages
    ]


async def test_a_response_is_continued() -> None:
    worker = thinker(*CALL)
    async with serving(worker) as gateway:
        first = await create(gateway, instructions="Be brief.", tools=[WEATHER])
        output = {"type": "function_call_output", "call_id": first.output[2].call_id, "output": "sunny"}
        second = await create(gateway, [output], previous_response_id=first.id, tools=[WEATHER])
        await create(gateway, "and now?", previous_response_id=second.id, tools=[WEATHER])
    answer = ("assistant", "Well", "let me see", 1)
    assert await sent(worker) == [
        ("user", "hi", "", 0),
        answer,
        ("tool", "sunny", "", 0),
        answer,
        ("user", "and now?", "", 0),
    ]


async def test_what_is_kept_can_be_asked_for_and_forgotten_by_its_owner_alone() -> None:
    book, _, headers = make_book()
    key, text = new_key("other")
    book.on_key(key.id, key)
    others = {"authorization": f"Bearer {text}"}
    async with serving(book=book) as gateway:
        gateway.http.headers.update(headers)
        first = await create(gateway, [{"role": "user", "content": f"{n}"} for n in range(3)])
        path = f"/v1/responses/{first.id}"
        assert check(Response, (await gateway.http.get(path)).content) == first
        listed = (await gateway.http.get(f"{path}/input_items", params={"limit": 2})).json()
        for each in listed["data"]:
            check(AnyItem, json.dumps(each))
        assert [each["content"][0]["text"] for each in listed["data"]] == ["2", "1"]
        assert (listed["has_more"], listed["last_id"]) == (True, listed["data"][1]["id"])
        rest = await gateway.http.get(f"{path}/input_items", params={"after": listed["last_id"]})
        assert [each["content"][0]["text"] for each in rest.json()["data"]] == ["0"]
        reference = {"type": "item_reference", "id": first.output[0].id}
        await create(gateway, [reference, {"role": "user", "content": "go on"}])
        for method, where in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
            assert (await gateway.http.request(method, where, headers=others)).status_code == 404
        stolen = ask(previous_response_id=first.id)
        refused = await gateway.http.post("/v1/responses", json=stolen, headers=others)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")
        assert (await gateway.http.delete(path)).json() == {"id": first.id, "object": "response", "deleted": True}
        assert (await gateway.http.get(path)).status_code == 404
        unkept = await create(gateway, store=False)
        assert (await gateway.http.get(f"/v1/responses/{unkept.id}")).status_code == 404


async def test_an_item_comes_once_as_pages_go_by_ids() -> None:
    item = {"id": "msg_1", "type": "message", "role": "user", "content": "one"}
    async with serving() as gateway:
        conversation = (await gateway.http.post("/v1/conversations", json={})).json()["id"]
        path = f"/v1/conversations/{conversation}"
        first = await create(gateway, [item], conversation=conversation)
        for where, body, param in (
            ("/v1/responses", ask([item], conversation=conversation), "input[0].id"),
            ("/v1/responses", ask([item], previous_response_id=first.id), "input[0].id"),
            ("/v1/responses", ask([item, item]), "input[1].id"),
            (f"{path}/items", {"items": [item]}, "items"),
            ("/v1/conversations", {"items": [item, item]}, "items[1].id"),
        ):
            refused = await gateway.http.post(where, json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        other = await gateway.http.post(f"{path}/items", json={"items": [{**item, "id": "msg_2"}]})
        assert other.status_code == 200
        listed = await gateway.http.get(f"{path}/items", params={"order": "asc"})
        assert [each["id"] for each in listed.json()["data"]] == ["msg_1", first.output[0].id, "msg_2"]


class Counting(FakeWorker):
    """Counts messages as tokens."""

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=range(len(request.chat.messages)))


async def test_the_sdk_reads_streams_and_continues() -> None:
    worker = Counting("w")
    worker.script = WORDS
    async with (
        serving(worker) as gateway,
        AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
    ):
        async with client.responses.stream(model="m", input="hi", extra_body={"seed": 7}) as events:
            async for _ in events:
                pass
            final: Any = await events.get_final_response()
        assert final.output_text == TEXT
        again = await client.responses.retrieve(final.id)
        assert again.output_text == TEXT
        listed = await client.responses.input_items.list(final.id)
        assert [item.type for item in listed.data] == ["message"]
        counted = await client.responses.input_tokens.count(model="m", previous_response_id=final.id, input="and?")
        assert counted.input_tokens == 3
        await client.responses.delete(final.id)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": [{"role": "nobody", "content": "x"}]}, "input[0].role"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
        "input[0].content[0].type",
    ),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input[0].call_id"),
    ({"input": [{"type": "item_reference", "id": "i"}]}, "input[0].id"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x:"}]}]}, "input[0].content[0]"),
    ({"max_output_tokens": 15}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "a", "x": 1}]}, "tools[0].x"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]}, "tools[0].tools[0].type"),
    ({"tool_choice": {"type": "function", "name": "g"}, "tools": [WEATHER]}, "tool_choice"),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
    ({"include": ["everything"]}, "include"),
    ({"truncation": "auto"}, "truncation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"previous_response_id": "r", "conversation": "c"}, "previous_response_id"),
    ({"previous_response_id": "r"}, "previous_response_id"),
    ({"background": True, "store": False}, "background"),
    ({"stream_options": {"include_usage": True}, "stream": True}, "stream_options.include_usage"),
    ({"metadata": {"k" * 65: ""}}, "metadata"),
    ({"n": 2}, "n"),
]


async def test_what_cannot_be_honoured_is_refused_by_name() -> None:
    worker = talker()
    worker.capabilities = (*worker.capabilities, pb.CAPABILITY_VISION)
    async with serving(worker) as gateway:
        for fields, param in REFUSED:
            raw = await gateway.http.post("/v1/responses", json=ask(**fields))
            assert raw.status_code in (400, 404), (fields, raw.text)
            error = raw.json()["error"]
            assert (error["param"] or "").startswith(param), (fields, error)
            assert f"'{param}" in error["message"] or "not kept" in error["message"], (fields, error)
    assert not worker.starts


async def test_namespaces_are_shown_flat_and_hosted_tools_left_out_where_that_is_wished() -> None:
    worker = thinker("<tool_call>", '{"name": "ns__f", "arguments": {}}', "</tool_call>")
    space = {"type": "namespace", "name": "ns", "description": "", "tools": [WEATHER]}
    async with serving(worker, hosted_tools="ignore") as gateway:
        answer = await create(gateway, tools=[{"type": "web_search"}, space], tool_choice="auto")
        (call,) = answer.output
        assert (call.namespace, call.name) == ("ns", "f")
        back = {"type": "function_call_output", "call_id": call.call_id, "output": "x"}
        await create(gateway, [back], previous_response_id=answer.id, tools=[space])
    assert [tool.name for tool in worker.starts[-1].request.chat.tools] == ["ns__f"]
    assert worker.starts[-1].request.chat.messages[1].tool_calls[0].name == "ns__f"


async def test_searches_of_the_web_are_left_out_and_named_and_other_hosted_tools_refused() -> None:
    worker = talker()
    search = {"type": "web_search_preview", "search_context_size": "low"}
    async with serving(worker) as gateway:
        raw = await gateway.http.post("/v1/responses", json=ask(tools=[search, WEATHER], tool_choice="auto"))
        assert raw.headers["x-mesh-tools-left-out"] == "web_search_preview"
        assert [tool["type"] for tool in raw.json()["tools"]] == ["function"]
        assert "x-mesh-tools-left-out" not in (await gateway.http.post("/v1/responses", json=ask())).headers
        demanded = await gateway.http.post("/v1/responses", json=ask(tools=[search], tool_choice="required"))
        assert demanded.json()["error"]["param"] == "tool_choice"
        other = await gateway.http.post("/v1/responses", json=ask(tools=[{"type": "file_search"}]))
        assert other.json()["error"]["param"] == "tools[0].type"
    async with serving(talker(), hosted_tools="refuse") as gateway:
        refused = await gateway.http.post("/v1/responses", json=ask(tools=[search]))
        assert refused.json()["error"]["param"] == "tools[0].type"
    assert [tool.name for tool in worker.starts[0].request.chat.tools] == [WEATHER["name"]]


async def test_without_a_store_nothing_is_kept_and_answers_come_nevertheless() -> None:
    async with serving(store="none") as gateway:
        answer = await create(gateway)
        assert answer.model_extra["store"] is False
        for path in (f"/v1/responses/{answer.id}", "/v1/responses/x"):
            raw = await gateway.http.get(path)
            assert (raw.status_code, raw.json()["error"]["code"]) == (503, "store_unavailable")
        assert (await gateway.http.post("/v1/responses", json=ask(store=True))).status_code == 503


async def test_a_store_that_breaks_hits_only_what_needs_it(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    where = f"{tmp_path}/file/store.db"
    async with serving(store=where) as gateway:
        raw = await gateway.http.post("/v1/responses", json=ask())
        assert (raw.status_code, raw.json()["error"]["code"]) == (503, "store_unavailable")
        assert str(tmp_path) not in raw.text  # that is for the log
        assert any(where in str(vars(record).get("facts")) for record in caplog.records)
        await create(gateway, store=False)
        assert (await gateway.chat()).status_code == 200


async def test_a_fault_in_mid_stream_is_the_end_of_the_response() -> None:
    worker = FakeWorker("w", length=1000)
    async with serving(worker, queue_timeout=0.1) as gateway:
        body = ask(stream=True)
        async with gateway.http.stream("POST", "/v1/responses", json=body) as raw:
            lines = raw.aiter_lines()
            async for line in lines:
                if "output_text.delta" in line:
                    break
            await worker.kill()
            rest = [line async for line in lines]
    last = check(
        AnyEvent, next(line for line in reversed(rest) if line.startswith("data: ")).removeprefix("data: ")
    ).root
    assert (last.type, last.response.status, last.response.error.code) == ("response.failed", "failed", "server_error")


async def test_a_client_comes_back_for_the_events_that_it_lacks() -> None:
    async with serving() as gateway:
        body, wish = ask(stream=True), {"x-mesh-reconnect": "1"}
        whole = (await gateway.http.post("/v1/responses", json=body, headers=wish)).text
        blocks = whole.split("\n\n")
        for cut in (1, 6, len(blocks) - 2):
            last = blocks[cut].splitlines()[0].removeprefix("id: ")
            rest = await gateway.http.post("/v1/responses", json=body, headers={"last-event-id": last})
            if cut == len(blocks) - 2:
                assert rest.status_code == 204
            else:
                assert rest.text.split("\n\n")[:-2] == blocks[cut + 1 : -2]


async def settled(gateway: GatewayUnderTest, response_id: str) -> Any:
    """A response in the background, once it has ended."""

    async def ended() -> Any:
        raw = await gateway.http.get(f"/v1/responses/{response_id}")
        answer = check(Response, raw.content)
        return answer if answer.status not in ("queued", "in_progress") else None

    return await eventually(ended, within=20)


async def test_a_response_in_the_background_survives_its_client() -> None:
    async with serving() as gateway:
        begun = await create(gateway, background=True, metadata={"k": "v"})
        assert (begun.status, begun.background) == ("queued", True)
        done = await settled(gateway, begun.id)
        assert (done.status, done.output_text, done.usage.output_tokens) == ("completed", TEXT, 12)
        assert done.metadata == {"k": "v"}
        raw = await gateway.http.get(f"/v1/responses/{begun.id}?stream=true")
        events = events_of(raw)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
        assert events[-1].response == done
        rest = await gateway.http.get(f"/v1/responses/{begun.id}?stream=true&starting_after=4")
        assert events_of(rest) == events[5:]
        further = await create(gateway, "more", previous_response_id=begun.id)
        assert further.output_text == TEXT
        assert gateway.metric("gen_ai_client_token_usage_sum", **OUTPUT) == 24


OUTPUT = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "m", "gen_ai_token_type": "output"}


async def test_a_stream_in_the_background_is_read_while_it_grows() -> None:
    worker = talker()
    async with serving(worker) as gateway:
        worker.stop_after = 6
        body = ask(background=True, stream=True)
        async with gateway.http.stream("POST", "/v1/responses", json=body) as raw:
            found: list[str] = []
            async for line in raw.aiter_lines():
                found.append(line)
                if "delta" in line:
                    break
        first = json.loads(found[1].removeprefix("data: "))
        worker.stop_after = None
        rest = await gateway.http.get(f"/v1/responses/{first['response']['id']}?stream=true")
        assert events_of(rest)[-1].response.output_text == TEXT


async def test_a_stream_ends_when_its_response_is_removed() -> None:
    worker = talker()
    async with serving(worker) as gateway:
        worker.stop_after = 3
        begun = await create(gateway, background=True)
        await eventually(lambda: seen(gateway, begun.id, "delta"))
        reading = asyncio.create_task(gateway.http.get(f"/v1/responses/{begun.id}?stream=true"))
        await eventually(lambda: len(gateway.exchanges.live) > 1)
        assert (await gateway.http.delete(f"/v1/responses/{begun.id}")).status_code == 200
        events = events_of(await reading)
        assert (events[-1].type, events[-1].code) == ("error", "not_found")
        await eventually(lambda: not worker.rows)


async def test_cancelling() -> None:
    worker = talker()
    async with serving(worker) as gateway:
        worker.stop_after = 3
        begun = await create(gateway, background=True)
        path = f"/v1/responses/{begun.id}"
        await eventually(lambda: worker.rows)
        for _ in range(2):
            raw = await gateway.http.post(f"{path}/cancel")
            assert check(Response, raw.content).status == "cancelled"
        await eventually(lambda: not worker.rows)
        worker.stop_after = None
        assert (await settled(gateway, begun.id)).status == "cancelled"
        usual = await create(gateway)
        refused = await gateway.http.post(f"/v1/responses/{usual.id}/cancel")
        assert "synchronous" in refused.json()["error"]["message"]
        refused = await gateway.http.get(f"/v1/responses/{usual.id}?stream=true")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")


async def test_one_that_fails_says_why() -> None:
    worker = talker()
    async with serving(worker, queue_timeout=0.1) as gateway:
        worker.stop_after = 3
        begun = await create(gateway, background=True)
        await eventually(lambda: worker.rows)
        await worker.kill()
        failed = await settled(gateway, begun.id)
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        unknown = await gateway.http.post("/v1/responses", json=ask(background=True, model="unknown"))
        assert unknown.status_code == 404


async def test_one_whose_conversation_was_removed_meanwhile_ends_nevertheless() -> None:
    worker = talker()
    async with serving(worker) as gateway:
        conversation = (await gateway.http.post("/v1/conversations", json={})).json()["id"]
        worker.stop_after = 3
        begun = await create(gateway, background=True, conversation=conversation)
        await eventually(lambda: worker.rows)
        assert (await gateway.http.delete(f"/v1/conversations/{conversation}")).status_code == 200
        worker.stop_after = None
        done = await settled(gateway, begun.id)
        assert (done.status, done.output_text) == ("completed", TEXT)
        assert len(worker.starts) == 1


async def test_one_that_fails_on_another_gateway_says_so_to_those_who_read_its_events(tmp_path: Path) -> None:
    worker = talker()
    store = str(tmp_path / "store.db")
    async with worker, GatewayUnderTest(store=store, queue_timeout=0.1) as other:
        await other.add(worker)
        async with GatewayUnderTest(store=store) as first:
            await first.add(worker)
            worker.stop_after = 5
            begun = await create(first, background=True)
            await eventually(lambda: seen(first, begun.id, "delta"))
            await worker.kill()
        assert (await settled(other, begun.id)).status == "failed"
        events = events_of(await other.http.get(f"/v1/responses/{begun.id}?stream=true"))
    assert events[-1].type == "response.failed"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_another_gateway_goes_on_where_one_has_stopped(tmp_path: Path) -> None:
    worker = talker()
    store = str(tmp_path / "store.db")
    book, key, headers = make_book(token_budget=10**6)
    async with worker, GatewayUnderTest(store=store, book=book) as other:
        other.http.headers.update(headers)
        await other.add(worker)
        whole = await create(other, background=True)
        await settled(other, whole.id)
        expected = events_of(await other.http.get(f"/v1/responses/{whole.id}?stream=true"))
        async with GatewayUnderTest(store=store, book=make_book_of(key)) as first:
            first.http.headers.update(headers)
            await first.add(worker)
            worker.stop_after = 5
            begun = await create(first, background=True)
            await eventually(lambda: seen(first, begun.id, "delta"))
        worker.stop_after = None
        spent = book.accounts[key.id].used.tokens
        done = await settled(other, begun.id)
        assert (done.status, done.output_text) == ("completed", TEXT)
        events = events_of(await other.http.get(f"/v1/responses/{begun.id}?stream=true"))
    assert [nameless(event) for event in events] == [nameless(event) for event in expected]
    assert book.accounts[key.id].used.tokens == 2 * spent, "its key pays on the other gateway"
    assert book.accounts[key.id].live == 0


async def test_a_response_whose_key_was_revoked_is_not_gone_on_with(tmp_path: Path) -> None:
    worker = talker()
    store = str(tmp_path / "store.db")
    book, key, headers = make_book()
    async with worker, GatewayUnderTest(store=store, book=make_book_of(key)) as first:
        first.http.headers.update(headers)
        await first.add(worker)
        worker.stop_after = 5
        begun = await create(first, background=True)
        await eventually(lambda: seen(first, begun.id, "delta"))
    book.on_key(key.id, None)
    async with GatewayUnderTest(store=store, book=book) as other:
        await eventually(lambda: seen(other, begun.id, "not valid any more"), within=10)
    assert len(worker.starts) == 1


async def seen(gateway: GatewayUnderTest, response_id: str, text: str) -> bool:
    """Whether the store has such an event."""
    database = await gateway.store.open()
    async with database.reading() as session:
        found = await session.scalars(select(Event.data).where(Event.owner == response_id))
        return any(text.encode() in data for data in found)


def nameless(event: Any) -> str:
    """An event without what differs between any two responses."""
    return re.sub(r"(resp|msg)_[0-9a-f]+|'(created|completed)_at': [0-9.]+", "", str(event.to_dict()))


async def test_records_that_cannot_be_read_end_no_gateway_and_hold_up_no_others() -> None:
    worker = talker()
    async with serving(worker) as gateway:
        database = await gateway.store.open()
        for kind in ("response", "batch"):
            broken = Record(id=f"of-a-newer-{kind}", kind=kind, tenant="", created_at=0, changed_at=int(time.time()))
            broken.alive_at = 0.0 if kind == "response" else None
            async with database.writing() as session:
                session.add(broken)
        begun = await create(gateway, background=True)
        file = await gateway.http.post("/v1/files", files={"file": ("in.jsonl", LINE)}, data={"purpose": "batch"})
        asked = {"input_file_id": file.json()["id"], "endpoint": "/v1/responses", "completion_window": "1h"}
        batch = (await gateway.http.post("/v1/batches", json=asked)).json()
        assert (await settled(gateway, begun.id)).status == "completed"

        async def completed() -> bool:
            found = await gateway.http.get(f"/v1/batches/{batch['id']}")
            return found.json()["status"] == "completed"

        await eventually(completed, within=20)


LINE = json.dumps({"custom_id": "c", "method": "POST", "url": "/v1/responses", "body": ask()}).encode()
