"""The remote engine when the provider refuses, breaks or dawdles, and when the reader does."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import time
from typing import Any

import pytest

from mesh.engine.base import ChoiceFinished, Delta, Failed, Finished
from mesh.errors import ErrorKind, MeshError
from tests.component.fake_provider import (
    ANSWERS,
    CUT,
    FakeProvider,
    Reply,
    anthropic_event,
    google_chunk,
    openai_answer,
    openai_chunk,
    sse,
)
from tests.component.remote_rig import KEY, request, running
from tests.harness import eventually, free_port


def refusal(status: int, error: Any, **headers: str) -> Reply:
    body = error if isinstance(error, bytes) else sse({"error": error}).removeprefix(b"data: ")
    return Reply([body], status, {"content-type": "application/json", **headers})


REFUSALS = [
    (400, {"message": "no such option", "param": "stop"}, ErrorKind.INVALID_REQUEST),
    (400, {"message": "too many", "code": "context_length_exceeded"}, ErrorKind.CONTEXT_LENGTH_EXCEEDED),
    (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}, ErrorKind.CONTEXT_LENGTH_EXCEEDED),
    (400, {"message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}, ErrorKind.ENGINE_FAILED),
    (401, {"message": f"Incorrect API key provided: {KEY}"}, ErrorKind.ENGINE_FAILED),
    (403, {"message": "not yours"}, ErrorKind.ENGINE_FAILED),
    (404, {"message": "no such model"}, ErrorKind.ENGINE_FAILED),
    (413, {"message": "32 MB at most"}, ErrorKind.PAYLOAD_TOO_LARGE),
    (429, {"message": "slow down"}, ErrorKind.OVERLOADED),
    (529, {"type": "overloaded_error", "message": "busy"}, ErrorKind.OVERLOADED),
    (500, {"message": f"it broke, {KEY}"}, ErrorKind.ENGINE_FAILED),
    (500, {"message": "x" * 584 + f" {KEY}"}, ErrorKind.ENGINE_FAILED),
    (502, b"<html>bad gateway</html>", ErrorKind.ENGINE_FAILED),
    (301, b"", ErrorKind.ENGINE_FAILED),
]


@pytest.mark.parametrize(("status", "error", "kind"), REFUSALS)
async def test_a_refusal_has_its_kind_and_never_the_key(
    status: int, error: Any, kind: ErrorKind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeProvider(refusal(status, error)) as provider, running(provider) as rig:
        found = await rig.error()
        assert rig.engine.stats()["failures"] == 1
    assert found.kind is kind
    assert KEY[:9] not in found.message
    assert not any(KEY in record.getMessage() for record in caplog.records)
    if isinstance(error, dict) and kind in (ErrorKind.INVALID_REQUEST, ErrorKind.OVERLOADED):
        assert error["message"] in found.message
        assert found.param == error.get("param")


async def test_googles_error_comes_in_a_list() -> None:
    reply = refusal(400, b'[{"error": {"code": 400, "message": "not so"}}]')
    async with FakeProvider(reply) as provider, running(provider, "google") as rig:
        error = await rig.error()
    assert (error.kind, error.message) == (ErrorKind.INVALID_REQUEST, "the provider refuses the request: not so")


async def test_when_to_come_back_is_passed_on() -> None:
    later = email.utils.formatdate(time.time() + 40, usegmt=True)
    replies = [refusal(429, {}, **{"retry-after": given}) for given in ("7", later, "soon")]
    async with FakeProvider(*replies) as provider, running(provider) as rig:
        first, second, third = [(await rig.error()).retry_after for _ in replies]
    assert first == 7
    assert second is not None
    assert 30 < second <= 40
    assert third is None


IN_STREAM = [
    ("openai", [openai_chunk("a"), sse({"error": {"message": "oh", "type": "server_error"}})], ErrorKind.ENGINE_FAILED),
    ("openai", [openai_chunk("a"), sse({"error": {"message": "oh", "code": 429}})], ErrorKind.OVERLOADED),
    (
        "anthropic",
        [*ANSWERS["anthropic"]("a")[:4], anthropic_event("error", error={"type": "overloaded_error"})],
        ErrorKind.OVERLOADED,
    ),
    ("google", [google_chunk({"text": "a"}), sse({"error": {"code": 503}})], ErrorKind.OVERLOADED),
    ("openai", [openai_chunk("a"), CUT], ErrorKind.ENGINE_FAILED),
    ("anthropic", [*ANSWERS["anthropic"]("a")[:-1], CUT], ErrorKind.ENGINE_FAILED),
    ("google", [google_chunk({"text": "a"})], ErrorKind.ENGINE_FAILED),
    ("openai", [openai_chunk("a"), sse("[DONE]")], ErrorKind.ENGINE_FAILED),
    ("openai", [openai_chunk("a"), sse("{nonsense")], ErrorKind.ENGINE_FAILED),
    ("openai", [openai_chunk("a"), openai_chunk("b", index=1)], ErrorKind.ENGINE_FAILED),
    ("openai", [openai_chunk("a"), sse({"choices": "none"})], ErrorKind.ENGINE_FAILED),
]


@pytest.mark.parametrize(("name", "acts", "kind"), IN_STREAM)
async def test_an_answer_that_breaks_off_fails_after_its_text(name: str, acts: Any, kind: ErrorKind) -> None:
    async with FakeProvider(Reply(acts)) as provider, running(provider, name) as rig:
        events = await rig.ask()
        await eventually(lambda: rig.engine.load().running == 0)
    assert rig.text(events[0].key) == "a"
    last = events[-1]
    assert isinstance(last, Failed)
    assert last.error.kind is kind
    assert not any(isinstance(event, ChoiceFinished | Finished) for event in events)


async def test_a_server_that_ends_without_done_has_still_answered() -> None:
    async with FakeProvider(Reply(openai_answer("a")[:-1])) as provider, running(provider) as rig:
        assert isinstance((await rig.ask())[-1], Finished)


async def test_what_is_no_stream_of_events_is_said() -> None:
    reply = Reply([b'{"choices": []}'], headers={"content-type": "application/json"})
    async with FakeProvider(reply) as provider, running(provider) as rig:
        assert "text/event-stream" in (await rig.error()).message


async def test_a_provider_that_is_not_there() -> None:
    async with FakeProvider() as provider:
        url = f"http://127.0.0.1:{free_port()}/v1"
        async with running(provider, base_url=url) as rig:
            error = await rig.error()
    assert error.kind is ErrorKind.ENGINE_FAILED
    assert "the connection to the provider broke" in error.message


@pytest.mark.parametrize("acts", [[], [openai_chunk("a")]], ids=["before", "after the first text"])
async def test_silence_is_limited(acts: list[Any]) -> None:
    never = asyncio.Event()
    async with FakeProvider(Reply([*acts, never])) as provider, running(provider, timeout=0.3) as rig:
        error = await rig.error()
        await eventually(lambda: provider.hung_up == 1)
    assert (error.kind, error.message) == (ErrorKind.ENGINE_FAILED, "the provider sent nothing for 0.3 s")


async def test_pings_are_no_news() -> None:
    pings = [anthropic_event("ping")] * 3
    reply = Reply([ANSWERS["anthropic"]()[0], *pings, asyncio.Event()])
    async with FakeProvider(reply) as provider, running(provider, "anthropic", timeout=0.3) as rig:
        assert "sent nothing" in (await rig.error()).message


async def test_the_steps_go_on_while_the_provider_thinks() -> None:
    think = asyncio.Event()
    async with FakeProvider(Reply([think, *openai_answer("a")])) as provider, running(provider) as rig:
        wanted = request()
        await rig.engine.submit(wanted)
        before = rig.engine.load().steps
        await eventually(lambda: rig.engine.load().steps > before)  # else a gateway would take the worker for frozen
        assert rig.steps == []
        think.set()
        await eventually(lambda: rig.ended(wanted.key))
    assert [step.number for step in rig.steps] == sorted({step.number for step in rig.steps})


async def test_cancel_hangs_up_and_nothing_follows() -> None:
    more = asyncio.Event()
    async with FakeProvider(Reply([openai_chunk("a"), more, openai_chunk("b")])) as provider, running(provider) as rig:
        wanted = request()
        await rig.engine.submit(wanted)
        await eventually(lambda: rig.text(wanted.key) == "a")
        rig.engine.cancel(wanted.key)
        seen = len(rig.events(wanted.key))
        assert rig.engine.load().running == 0
        await eventually(lambda: provider.hung_up == 1)
        more.set()
        assert len(rig.events(wanted.key)) == seen
        rig.engine.cancel(wanted.key)


async def test_without_credit_nothing_is_read() -> None:
    size, count = 100_000, 300
    acts = [openai_chunk("x" * size) for _ in range(count)]
    reply = Reply([*acts, *openai_answer()[1:]])
    async with FakeProvider(reply) as provider, running(provider, timeout=0.5) as rig:
        wanted = request(credit=2)
        await rig.engine.submit(wanted)
        await eventually(lambda: rig.engine.load().paused == 1)
        await eventually(lambda: provider.sent > 3 * size)
        # Longer than the limit of silence, which is the provider's and not the reader's.
        with pytest.raises(AssertionError):
            await eventually(lambda: rig.ended(wanted.key) or len(rig.text(wanted.key)) > 2 * size, within=0.8)
        assert len(rig.text(wanted.key)) == 2 * size
        assert provider.sent < size * count / 2  # what the sockets' buffers hold
        rig.engine.grant(wanted.key, count)
        await eventually(lambda: rig.ended(wanted.key), within=20)
        assert len(rig.text(wanted.key)) == size * count
        assert isinstance(rig.events(wanted.key)[-1], Finished)


async def test_a_deadline_ends_what_runs_and_what_waits() -> None:
    never = asyncio.Event()
    async with FakeProvider(Reply([openai_chunk("a"), never])) as provider, running(provider, slots=1) as rig:
        deadline = time.monotonic() + 0.3
        first, second = request(deadline=deadline), request(deadline=deadline)
        await rig.engine.submit(first)
        await rig.engine.submit(second)
        await eventually(lambda: rig.ended(first.key) and rig.ended(second.key))
        for key in (first.key, second.key):
            last = rig.events(key)[-1]
            assert isinstance(last, Failed)
            assert last.error.kind is ErrorKind.DEADLINE_EXCEEDED
        assert len(provider.seen) <= 1 + 1
        assert (rig.engine.load().running, rig.engine.load().waiting) == (0, 0)


async def test_there_is_room_for_so_many_and_the_urgent_go_first() -> None:
    go = asyncio.Event()
    slow = Reply([go, *openai_answer("a")])
    async with FakeProvider(slow) as provider, running(provider, slots=1, max_waiting=2) as rig:
        running_one, late, urgent = request(), request(priority=1), request(priority=-1)
        for each in (running_one, late, urgent):
            await rig.engine.submit(each)
        assert (rig.engine.load().running, rig.engine.load().waiting) == (1, 2)
        with pytest.raises(MeshError) as caught:
            await rig.engine.submit(request())
        assert caught.value.kind is ErrorKind.OVERLOADED
        go.set()
        await eventually(lambda: rig.ended(late.key))
    ends = [event.key for step in rig.steps for event in step.events if isinstance(event, Finished)]
    assert ends == [running_one.key, urgent.key, late.key]


async def test_connections_are_kept() -> None:
    async with FakeProvider(Reply(openai_answer("a"))) as provider, running(provider) as rig:
        for _ in range(3):
            await rig.ask()
            await eventually(lambda: rig.engine.load().running == 0)
        assert provider.connections == 1


async def test_after_a_stop_nothing_is_reported() -> None:
    never = asyncio.Event()
    async with FakeProvider(Reply([openai_chunk("a"), never])) as provider, running(provider) as rig:
        wanted = request()
        await rig.engine.submit(wanted)
        await eventually(lambda: rig.text(wanted.key) == "a")
        await rig.engine.stop()
        await eventually(lambda: provider.hung_up == 1)
        with pytest.raises(MeshError) as caught:
            await rig.engine.submit(request())
        assert caught.value.kind is ErrorKind.DRAINING
    assert [type(event) for event in rig.events(wanted.key)][1:] == [Delta]
