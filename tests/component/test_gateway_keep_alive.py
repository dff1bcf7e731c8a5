"""Comments in a stream whose prompt takes long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker, Row
from tests.harness import eventually

CHAT = ("/v1/chat/completions", body(stream=True, max_tokens=6))
GROUP = ("/v1/completions", {"model": "m", "prompt": ["a", "b"], "stream": True, "max_tokens": 6, "seed": 7})
COMMENT = ": keep-alive"


MESSAGES = ("/v1/messages", {**body(stream=True, max_tokens=6), "seed": None})
RESPONSES = ("/v1/responses", {"model": "m", "input": "hi", "stream": True, "store": False, "seed": 7})


class LongPrompt(FakeWorker):
    """Says that it has begun, unless it has no room yet, and nothing more before `read` is set."""

    def __init__(self, worker_id: str, *, full: bool = False) -> None:
        super().__init__(worker_id, length=6)
        self.full = full
        self.read = asyncio.Event()
        self.alter = self._hold
        self._held: dict[int, list[pb.StreamEvent]] = {}

    def _hold(self, row: Row, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        held = self._held.setdefault(row.id, [])
        held += events
        told = [event for event in held if self.read.is_set() or (event.HasField("started") and not self.full)]
        self._held[row.id] = [event for event in held if event not in told]
        return told

    def _stands_still(self, mine: dict[int, Row]) -> bool:
        return not self.read.is_set() and (self.full or all(row.started for row in mine.values()))

    async def read_after(self, comments: int, lines: AsyncIterator[str]) -> list[str]:
        """The lines of a stream, in which the first tokens come after so many comments."""
        found: list[str] = []
        async for line in lines:
            found.append(line)
            if found.count(COMMENT) >= comments:
                self.read.set()
        return found


@pytest.mark.parametrize(("path", "asked"), [CHAT, GROUP], ids=["chat", "group"])
async def test_a_silent_stream_gets_comments_and_is_the_same_otherwise(path: str, asked: dict[str, Any]) -> None:
    async with LongPrompt("w") as worker, GatewayUnderTest(stream_keep_alive=0.05) as gateway:
        await gateway.add(worker)
        async with gateway.http.stream("POST", path, json=asked) as response:
            assert response.status_code == 200
            slow = await worker.read_after(3, response.aiter_lines())
        quick = (await gateway.http.post(path, json=asked)).text.splitlines()
    assert slow.count(COMMENT) >= 3
    first_text = next(place for place, line in enumerate(slow) if " w" in line)
    assert slow[:first_text].count(COMMENT) >= 3
    assert events(slow) == events(quick)


async def test_comments_can_be_switched_off() -> None:
    async with LongPrompt("w") as worker, GatewayUnderTest(stream_keep_alive=0) as gateway:
        await gateway.add(worker)
        worker.read.set()
        answer = (await gateway.http.post(CHAT[0], json=CHAT[1])).text
    assert COMMENT not in answer
    assert answer.endswith("data: [DONE]\n\n")


APIS = pytest.mark.parametrize(("path", "asked"), [CHAT, GROUP, RESPONSES], ids=["chat", "group", "responses"])


@APIS
async def test_a_stream_that_waits_long_for_a_worker_begins_with_comments(path: str, asked: dict[str, Any]) -> None:
    times = {"stream_keep_alive": 0.05, "stream_begin_after": 0.1}
    async with LongPrompt("w", full=True) as worker, GatewayUnderTest(**times) as gateway:
        await gateway.add(worker)
        async with gateway.http.stream("POST", path, json=asked) as response:
            assert response.status_code == 200
            assert not worker.read.is_set()
            slow = await worker.read_after(3, response.aiter_lines())
        quick = (await gateway.http.post(path, json=asked)).text.splitlines()
    assert slow[0] == COMMENT
    assert len(events(slow)) == len(events(quick))
    assert slow[-2:] == quick[-2:] or path == RESPONSES[0]


async def test_it_may_begin_when_a_worker_does_and_no_earlier() -> None:
    async with LongPrompt("w", full=True) as worker, GatewayUnderTest(stream_begin_after=0) as gateway:
        await gateway.add(worker)
        late = {"x-deadline-ms": "300"}
        refused = await gateway.http.post(CHAT[0], json=CHAT[1], headers=late)
    assert refused.status_code == 504
    assert refused.json()["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("path", "asked", "last"),
    [(*CHAT, "data: "), (*GROUP, "data: "), (*RESPONSES, "event: response.failed"), (*MESSAGES, "event: error")],
    ids=["chat", "group", "responses", "messages"],
)
async def test_an_error_after_the_beginning_is_an_event(path: str, asked: dict[str, Any], last: str) -> None:
    async with LongPrompt("w", full=True) as worker, GatewayUnderTest(stream_begin_after=0.05) as gateway:
        await gateway.add(worker)
        asked = {name: value for name, value in asked.items() if value is not None}
        answer = await gateway.http.post(path, json=asked, headers={"x-deadline-ms": "400"})
    assert answer.status_code == 200
    *_, event, end = answer.text.split("\n\n")
    assert end == ""
    assert event.startswith(last)
    assert "deadline" in event
    assert "[DONE]" not in answer.text
    if path == RESPONSES[0]:
        assert "event: response.created" in answer.text


async def test_a_client_that_hangs_up_before_a_worker_begins_leaves_nothing_behind() -> None:
    async with LongPrompt("w", full=True) as worker, GatewayUnderTest(stream_begin_after=0.05) as gateway:
        await gateway.add(worker)
        async with gateway.http.stream("POST", CHAT[0], json=CHAT[1]) as response:
            await anext(response.aiter_lines())
            assert gateway.exchanges.live
        await eventually(lambda: bool(worker.cancels) and not gateway.exchanges.live)


def events(lines: list[str]) -> list[str]:
    """The events, in order, without what tells two answers apart; groups mix theirs at will."""
    found = [line.partition('"system_fingerprint"')[2] or line for line in lines if line.startswith("data: ")]
    return sorted(found)
