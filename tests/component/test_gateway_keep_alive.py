"""Comments in a stream whose prompt takes long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker, Row

CHAT = ("/v1/chat/completions", body(stream=True, max_tokens=6))
GROUP = ("/v1/completions", {"model": "m", "prompt": ["a", "b"], "stream": True, "max_tokens": 6, "seed": 7})
COMMENT = ": keep-alive"


class LongPrompt(FakeWorker):
    """Says that it has begun, and nothing more before `read` is set."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id, length=6)
        self.read = asyncio.Event()
        self.alter = self._hold
        self._held: dict[int, list[pb.StreamEvent]] = {}

    def _hold(self, row: Row, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        held = self._held.setdefault(row.id, [])
        held += events
        told = [event for event in held if self.read.is_set() or event.HasField("started")]
        self._held[row.id] = [event for event in held if event not in told]
        return told

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


def events(lines: list[str]) -> list[str]:
    """The events, in order, without what tells two answers apart; groups mix theirs at will."""
    found = [line.partition('"system_fingerprint"')[2] or line for line in lines if line.startswith("data: ")]
    return sorted(found)
