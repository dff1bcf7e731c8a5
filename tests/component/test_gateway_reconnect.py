"""A client that lost its connection comes back with the id of the last event that it has, to whichever gateway: the two
parts are the bytes that it would have had. Two gateways and a real worker in this process."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.worker.config import WorkerConfig
from mesh.worker.lifecycle import make_record
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.worker_rig import Rig, serving
from tests.harness import eventually
from tests.unit.dialect_texts import TOOLS, answer, dialect_of

TOKENS = 6
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
WISH = {"x-mesh-reconnect": "1"}


def chat(**fields: Any) -> dict[str, Any]:
    body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    return {**body, "max_tokens": TOKENS, "stream_options": {"include_usage": True}, **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "stream": True, "prompt": "Once", "max_tokens": TOKENS, **fields}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, chat()),
    "no usage": (CHAT, chat(stream_options=None)),
    "two choices": (CHAT, chat(n=2, temperature=1)),
    "log probabilities": (CHAT, chat(logprobs=True, top_logprobs=2, seed=3)),
    "completion": (COMPLETIONS, completion(echo=True, seed=4)),
    "completion with log probabilities": (COMPLETIONS, completion(logprobs=1)),
    "two prompts": (COMPLETIONS, completion(prompt=["Once", "Twice"], n=2)),
}


@asynccontextmanager
async def scene(
    *, gateways: int = 2, step: float = 0.002, script: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncGenerator[tuple[Rig, list[GatewayUnderTest]]]:
    """A worker, and gateways that know it."""
    async with AsyncExitStack() as stack:
        engine = ScriptedEngine(ScriptedOptions(step_interval=step, **(script or {})))
        rig = await stack.enter_async_context(serving(engine))
        record = make_record(WorkerConfig(engine="scripted"), rig.server, f"127.0.0.1:{rig.port}")
        found = [await stack.enter_async_context(GatewayUnderTest(**settings)) for _ in range(gateways)]
        for gateway in found:
            gateway.directory.on_worker(record.worker_id, record)
            await eventually(lambda gateway=gateway: gateway.session(record.worker_id))
        yield rig, found


async def read(
    gateway: GatewayUnderTest,
    path: str,
    body: Mapping[str, Any],
    *,
    after: str = "",
    events: int | None = None,
    status: int = 200,
) -> list[bytes]:
    """The events of an answer as they came, or so many of them; then the client hangs up."""
    headers = WISH | ({"Last-Event-ID": after} if after else {})
    pending, found = b"", list[bytes]()
    async with gateway.http.stream("POST", path, json=dict(body), headers=headers) as response:
        assert response.status_code == status, await response.aread()
        async for piece in response.aiter_raw():
            *whole, pending = (pending + piece).split(b"\n\n")
            found += whole
            if events is not None and len(found) >= events:
                return found[:events]
    assert not pending
    return found


def last_id(events: list[bytes]) -> str:
    return events[-1].split(b"\n")[0].removeprefix(b"id: ").decode()


def from_the_start(event_id: str) -> str:
    """The id that a client of the same answer would have that has none of its events."""
    head, _, place = event_id.partition(".")
    return head + "".join(".0-0" for lane in place.split(".") if "-" in lane)


def without_identity(events: list[bytes]) -> list[bytes]:
    """The data of events, but for what tells an answer from all others."""
    return [re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", event.split(b"data: ")[1]) for event in events]


def by_choice(events: list[bytes]) -> dict[bytes, list[bytes]]:
    """The data of events in order, for each choice."""
    found: dict[bytes, list[bytes]] = {}
    for event in events:
        data = event.split(b"data: ")[1]
        found.setdefault(data.partition(b'"index":')[2][:1], []).append(data)
    return found


@pytest.mark.parametrize("grace", [30.0, 0.0], ids=["kept", "computed again"])
@pytest.mark.parametrize(("path", "body"), CASES.values(), ids=CASES.keys())
async def test_two_parts_are_the_whole(path: str, body: dict[str, Any], grace: float):
    async with scene(reconnect_grace=grace) as (_, (first, second)):
        undisturbed = await read(first, path, body)
        assert all(event.startswith(b"id: ") for event in undisturbed)
        assert undisturbed[-1].endswith(b"data: [DONE]")
        events = len(undisturbed)
        cuts = (1, 2, events // 2, events - 2, events - 1)
        for cut in cuts:
            part = await read(first, path, body, events=cut)
            rest = await read(second, path, body, after=last_id(part))
            whole = await read(first, path, body, after=from_the_start(last_id(part)))
            if isinstance(body.get("prompt"), list):  # which prompt is a step ahead is up to the worker
                assert by_choice(part + rest) == by_choice(whole), cut
            else:
                assert part + rest == whole, cut
            if "seed" in body:
                assert without_identity(whole) == without_identity(undisturbed)
        kept = grace and not isinstance(body.get("prompt"), list)
        how = "kept" if kept else "computed again"
        assert second.metric("mesh_gateway_reconnects_total", model="scripted", how=how) == len(cuts)


@pytest.mark.parametrize("grace", [30.0, 0.0], ids=["kept", "computed again"])
@pytest.mark.parametrize("writer", ["hermes", "harmony"])
async def test_reasoning_and_calls_go_on_where_they_were(tmp_path: Path, writer: str, grace: float):
    """The ids of calls, too, and the parser finds itself in the middle of a thought or of an argument."""
    text = tmp_path / "answer"
    text.write_text(answer(writer, "Which city?", "", [("get_weather", {"city": "Bern", "days": 3})]))
    script = {"text": str(text), "dialect": dialect_of(writer)}
    tools = [{"type": "function", "function": {"name": name, "parameters": TOOLS[name]}} for name in TOOLS]
    body = chat(tools=tools, max_tokens=1000)
    async with scene(script=script, reconnect_grace=grace) as (_, (first, second)):
        undisturbed = await read(first, CHAT, body)
        thought, call = (
            [place for place, event in enumerate(undisturbed) if part in event]
            for part in (b'"reasoning"', b'"arguments"')
        )
        assert len(thought) > 3
        assert len(call) > 3
        for cut in (thought[1], thought[-1], call[0], call[1], call[-1]):
            part = await read(first, CHAT, body, events=cut + 1)
            rest = await read(second, CHAT, body, after=last_id(part))
            whole = await read(first, CHAT, body, after=from_the_start(last_id(part)))
            assert part + rest == whole, cut


async def test_what_is_kept_is_not_computed_again():
    async with scene() as (rig, (first, second)):
        part = await read(first, CHAT, chat(), events=3)
        await eventually(lambda: rig.server.streams.counts.finished == 1)
        for _ in range(2):
            rest = await read(second, CHAT, chat(), after=last_id(part))
            assert rest[-1].endswith(b"[DONE]")
        assert rig.server.engine.stats()["requests"] == 1


async def test_without_the_wish_there_are_no_ids_and_a_hang_up_cancels():
    async with scene(gateways=1, step=0.02) as (rig, (gateway,)):
        async with gateway.http.stream("POST", CHAT, json=chat()) as response:
            async for piece in response.aiter_raw():
                assert b"id: " not in piece
                break
        await eventually(lambda: rig.server.streams.counts.cancelled == 1)


async def test_nobody_waits_longer_than_the_grace_period():
    async with scene(step=0.05, reconnect_grace=0.1) as (rig, (first, second)):
        body = chat(max_tokens=20)
        part = await read(first, CHAT, body, events=3)
        await eventually(lambda: rig.server.streams.counts.cancelled == 1)
        rest = await read(second, CHAT, body, after=last_id(part))
        assert second.metric("mesh_gateway_reconnects_total", model="scripted", how="computed again") == 1
        assert part + rest == await read(first, CHAT, body, after=from_the_start(last_id(part)))


async def test_the_second_connection_takes_over():
    async with scene(step=0.02) as (rig, (first, second)):
        body = chat(max_tokens=50)
        async with first.http.stream("POST", CHAT, json=body, headers=WISH) as response:
            pieces = response.aiter_raw()
            head = (await anext(pieces)).split(b"\n\n")[0]
            rest = await read(second, CHAT, body, after=last_id([head]))
            left = b"".join([piece async for piece in pieces])
        assert json.loads(left.split(b"data: ")[-1])["error"]["code"] == "taken_over"
        assert rest[-1].endswith(b"[DONE]")
        assert rig.server.engine.stats()["requests"] == 1


async def test_a_client_that_has_everything_is_told_to_stay_away():
    async with scene(gateways=1) as (_, (gateway,)):
        events = await read(gateway, CHAT, chat())
        assert await read(gateway, CHAT, chat(), after=last_id(events), status=204) == []


async def refusal(gateway: GatewayUnderTest, body: dict[str, Any], **headers: str) -> tuple[str, str]:
    response = await gateway.http.post(CHAT, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert response.status_code == 400
    return response.json()["error"]["param"], response.json()["error"]["message"]


async def test_an_id_that_does_not_belong_to_the_request_is_refused():
    async with scene(gateways=1) as (rig, (gateway,)):
        id_ = last_id(await read(gateway, CHAT, chat(), events=3))
        head, place = id_.split(".")
        for last in ("7", "x" * 60, head, f"{head}.", f"{head}.1", f"{id_}.0-0", f"{head}.-1", f"B{id_[1:]}"):
            param, message = await refusal(gateway, chat(), last_event_id=last)
            assert (param, "is not an event id" in message) == ("Last-Event-ID", True), last
        _, message = await refusal(gateway, chat(max_tokens=7), last_event_id=id_)
        assert "the same body" in message
        _, message = await refusal(
            gateway, chat(), last_event_id=f"{head[:-1]}{'A' if head[-1] != 'A' else 'B'}.{place}"
        )
        assert "the same body" in message
        assert rig.server.engine.stats()["requests"] == 1


async def test_what_cannot_be_honoured_is_refused_by_name():
    async with scene(gateways=1) as (_, (gateway,)):
        assert (await refusal(gateway, chat(), x_mesh_reconnect="yes"))[0] == "x-mesh-reconnect"
        whole = chat(stream=False, stream_options=None)
        assert (await refusal(gateway, whole, x_mesh_reconnect="1"))[0] == "x-mesh-reconnect"
        assert (await refusal(gateway, whole, last_event_id="x"))[0] == "Last-Event-ID"


@pytest.mark.parametrize("place", ["3-abcd", "99-abcd"], ids=["another text", "more than there is"])
async def test_an_answer_that_comes_out_differently_is_not_continued(place: str):
    async with scene(gateways=1) as (_, (gateway,)):
        head = last_id(await read(gateway, CHAT, chat(), events=3)).split(".")[0]
        [event] = await read(gateway, CHAT, chat(), after=f"{head}.{place}")
        assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "worker_lost"


async def test_another_model_never_continues_an_answer():
    async with scene(gateways=1, queue_timeout=0.1) as (rig, (gateway,)):
        id_ = last_id(await read(gateway, CHAT, chat(), events=3))
        record = make_record(WorkerConfig(engine="scripted"), rig.server, f"127.0.0.1:{rig.port}")
        record.models[0].fingerprint = "another"
        gateway.directory.on_worker(record.worker_id, record)
        response = await gateway.http.post(CHAT, json=chat(), headers={"Last-Event-ID": id_})
        assert isinstance(response, httpx.Response)
        assert response.status_code == 429  # it has waited for a worker with that model
        assert rig.server.engine.stats()["requests"] == 1
