"""Any messages may come over a session, either way: a worker ends what makes no sense and nothing else, a gateway
leaves a worker that talks nonsense, and afterwards no stream, row or task is left on either side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.v1 import inference_pb2 as pb
from tests.component.fuzz_strategies import messages
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.component.worker_rig import Rig, SessionClient, serving
from tests.harness import eventually

FUZZ = settings(
    max_examples=15,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# A hang would make shrinking endless.
LIMIT = 15.0
OPEN = pb.SessionRequest(open=pb.SessionOpen(client="fuzz"))

# What gRPC's client says of a call that had ended when something was written to it.
_WRITTEN_TOO_LATE = "Internal error from Core"

# To a worker.


def _start(stream_id: int, credit: int | None, request: pb.GenerateRequest) -> pb.SessionRequest:
    """A request that would be served, but for what is strange about it."""
    whole = pb.GenerateRequest(text="hello")
    whole.MergeFrom(request)
    return pb.SessionRequest(start=pb.StreamStart(stream_id=stream_id, request=whole, credit=credit))


_ids = st.integers(0, 7)
# Most are served, if they have no more than one strange option.
_requests = st.one_of(
    st.just(pb.GenerateRequest()),
    messages(pb.SamplingOptions, most=1).map(lambda sampling: pb.GenerateRequest(sampling=sampling)),
    messages(pb.GenerateRequest),
)
_starts = st.builds(
    _start,
    _ids,
    st.none() | st.integers(0, 5),
    _requests,
)
_cancels = _ids.map(lambda stream: pb.SessionRequest(cancel=pb.StreamCancel(stream_id=stream)))
_credits = st.builds(pb.StreamCredit, stream_id=_ids, tokens=st.sampled_from([0, 1, 100, 2**32 - 1])).map(
    lambda credit: pb.SessionRequest(credit=credit)
)
_any = messages(pb.SessionRequest)
commands = st.lists(_starts | _starts | _cancels | _credits | _any, max_size=12)


# Answers that do not end by themselves, so that what is left is seen.
OPTIONS = ScriptedOptions(tokens=1 << 20, context_length=1 << 20, step_interval=0.002, slots=512)


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    async with serving(ScriptedEngine(OPTIONS)) as rig:
        yield rig


@settings(FUZZ, max_examples=60)
@given(commands, st.booleans())
async def test_a_worker_takes_any_commands(rig: Rig, sent: list[pb.SessionRequest], opened: bool) -> None:
    sent = [OPEN] * opened + sent
    tasks = len(asyncio.all_tasks())
    session = SessionClient(rig.inference.Session())
    try:
        for command in sent:
            if not session.ended:
                await session.call.write(command)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the worker has ended the session
    cancelled = {command.cancel.stream_id for command in sent if command.HasField("cancel")}
    started = {command.start.stream_id for command in sent if command.HasField("start")} - cancelled
    if sent:  # a bad command ends the session, and a good one is answered
        opened = sent[0].HasField("open")
        await eventually(lambda: session.ended or (opened and all(session.events(stream) for stream in started)))
    session.hang_up()
    engine = rig.server.streams.engine
    await eventually(lambda: not rig.server.streams.busy and not engine.stats()["rows_live"])
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    _check_end(session)
    await _still_serves(rig)


def _check_end(session: SessionClient) -> None:
    """Whatever the worker has said, it has not failed: it ends a session because of what was sent."""
    if session.error is not None and session.error.details() != _WRITTEN_TOO_LATE:
        assert session.error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), session.error
    failures = [event.failed for each in session.messages for event in each.events if event.HasField("failed")]
    assert not [failure for failure in failures if failure.code == "engine_failed"], failures


async def _still_serves(rig: Rig) -> None:
    async with rig.session() as session:
        await session.start(1, pb.GenerateRequest(text="hello", sampling=pb.SamplingOptions(max_tokens=2)))
        await session.until(lambda: "finished" in session.kinds(1))


# From a worker.


class Liar(FakeWorker):
    """A worker that puts strange events among those of its streams, or sends strange messages."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id, length=6, pause=0.001)
        self.lies: list[pb.SessionResponse] = []

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See inference.proto."""
        await super().Session(requests, _LyingContext(context, self))

    def lie(self, message: pb.SessionResponse) -> list[pb.SessionResponse]:
        """What is sent instead of a message: itself, with the next lie in it or after it."""
        if not message.events or not self.lies:
            return [message]
        lie = self.lies.pop()
        for event in lie.events:
            # Most lies are about streams that live.
            event.stream_id = message.events[0].stream_id if event.stream_id != 7 else 7
        if lie.step % 2:
            lie.MergeFrom(message)
            return [lie]
        return [message, lie]


class _LyingContext:
    """A call's context whose messages pass through the liar."""

    def __init__(self, context: Any, liar: Liar) -> None:
        self._context = context
        self._liar = liar

    async def write(self, message: pb.SessionResponse) -> None:
        """Send it, or what is sent instead."""
        for each in self._liar.lie(message):
            await self._context.write(each)


_responses = messages(pb.SessionResponse)
_events = messages(pb.StreamEvent)
lies = st.lists(_responses | _events.map(lambda event: pb.SessionResponse(step=1, events=[event])), max_size=5)


@settings(FUZZ, max_examples=12)
@given(st.lists(lies, min_size=1, max_size=3))
async def test_a_gateway_bears_any_messages(told: list[list[pb.SessionResponse]]) -> None:
    async with (
        Liar("liar") as liar,
        FakeWorker("honest", length=6, pause=0.001) as honest,
        GatewayUnderTest(stall_floor=0.2, stall_ceiling=0.5, queue_timeout=2.0) as gateway,
    ):
        await gateway.add(liar, honest)
        for each in told:
            liar.lies = list(each)
            async with asyncio.timeout(LIMIT):
                *streams, one = await asyncio.gather(*(gateway.stream() for _ in range(3)), gateway.chat())
            assert isinstance(one, httpx.Response)
            assert one.status_code in (200, 502), one.text
            assert all(events[-1] == "[DONE]" for events in cast("list[list[Any]]", streams)), streams
        liar.lies = []
        await eventually(lambda: not gateway.exchanges.live and not liar.rows and not honest.rows)
        assert (await gateway.chat()).status_code == 200
