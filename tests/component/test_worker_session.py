"""Sessions over a real socket, with an engine driven by hand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator

import grpc
import grpc.aio
import pytest

from mesh import wire
from mesh.engine.base import ChoiceFinished, Delta, Failed, Finished, FinishReason, Started
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import admin_pb2
from mesh.v1 import inference_pb2 as pb
from tests.columns import as_events
from tests.component.manual_engine import ManualEngine
from tests.component.worker_rig import LIMIT, Rig, SessionClient, serving
from tests.harness import eventually


@pytest.fixture
def engine() -> ManualEngine:
    return ManualEngine()


@pytest.fixture
async def rig(engine: ManualEngine) -> AsyncGenerator[Rig]:
    async with serving(engine) as rig:
        yield rig


async def test_opens_with_identity_and_load(rig: Rig):
    async with rig.session() as session:
        opened = session.messages[0].opened
        assert opened.worker_id == "worker-under-test"
        assert opened.incarnation == rig.server.identity.incarnation
        assert opened.heartbeat == 2.0
        assert session.messages[0].load.slots == 8


async def test_one_message_per_step_whatever_the_number_of_rows(rig: Rig, engine: ManualEngine):
    rows, steps = 16, 30
    async with rig.session() as session:
        for stream in range(rows):
            await session.start(stream)
        await eventually(lambda: len(engine.requests) == rows)
        engine.start_all()
        for number in range(steps):
            await session.until(lambda number=number: len(session.steps) == number + 1)
            engine.step_all(number, f"w{number} ")
        await session.until(lambda: len(session.steps) == steps + 1)
        assert [message.step for message in session.steps] == list(range(1, steps + 2))
        assert all(len(as_events(message)) == rows for message in session.steps)
        expected = "".join(f"w{number} " for number in range(steps))
        assert {session.text(stream) for stream in range(rows)} == {expected}
        assert session.steps[-1].load.running == rows
        assert session.steps[-1].load.steps == steps + 1
        stats = await rig.admin.GetStats(admin_pb2.GetStatsRequest())
        assert (stats.session_messages, stats.live_sessions, stats.live_streams) == (steps + 1, 1, rows)


async def test_tokens_come_in_columns_if_the_gateway_reads_them(rig: Rig, engine: ManualEngine):
    async with rig.session() as reads, rig.session(columns=False) as does_not:
        for session in (reads, does_not):
            await session.start(1)
            await session.start(2)
        await eventually(lambda: len(engine.requests) == 4)
        engine.step_all(0, "a")
        key = engine.keys[0]
        engine.step(Delta(key, 0, (1, 2), "bc", position=1), Delta(key, 0, (3,), "d", position=3))
        engine.step(Delta(key, 1, (7,), "e", position=0))
        for session, text in ((reads, "abcde"), (does_not, "a")):
            await session.until(lambda session=session, text=text: session.text(1) == text)
    told = [stream_id for message in reads.steps for stream_id in message.tokens.stream_ids]
    assert told == [1, 2], "those behind an event of their stream are events too, and so is choice 1"
    assert [event.delta.position for event in reads.events(1)] == [0, 1, 3, 0]
    assert not any(message.HasField("tokens") for message in does_not.messages)


async def test_all_kinds_of_events_arrive_in_order(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(5)
        await eventually(lambda: engine.keys)
        (key,) = engine.keys
        engine.step(
            Started(key, prompt_tokens=7, cached_tokens=4),
            Delta(key, 0, (1, 2), "ab"),
            ChoiceFinished(key, 0, FinishReason.STOP, stop_string="!", stop_token_id=9),
            Finished(key, prompt_tokens=7, completion_tokens=2, cached_tokens=4, queue_time=0.5),
        )
        await session.until(lambda: len(session.events(5)) == 4)
        started, delta, choice, finished = session.events(5)
        assert started.started == pb.Started(prompt_tokens=7, cached_tokens=4, fingerprint="manual-1")
        assert delta.delta == pb.Delta(token_ids=[1, 2], text="ab")
        expected = pb.ChoiceFinished(reason=pb.FINISH_REASON_STOP, stop_string="!", stop_token_id=9)
        assert choice.choice_finished == expected
        assert finished.finished.usage == pb.Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=4)
        assert finished.finished.timing.queue == 0.5
        assert len(rig.server.streams) == 0


async def test_steps_merge_while_the_gateway_does_not_read(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.keys)
        session.reading.clear()
        # More than the transport takes, so that the writer of this session stands still.
        piece, steps = "x" * 20_000, 400
        for number in range(steps):
            engine.step_all(number, piece)
            await asyncio.sleep(0)
        session.reading.set()
        await session.until(lambda: len(session.events(1)) == steps)
        assert session.text(1) == piece * steps
        assert [event.delta.token_ids[0] for event in session.events(1)] == list(range(steps))
        assert len(session.steps) < steps / 2
        numbers = [message.step for message in session.steps]
        assert numbers == sorted(numbers)
        assert numbers[-1] == steps


async def test_a_blocked_session_holds_up_no_other(rig: Rig, engine: ManualEngine):
    async with wire.channel(f"127.0.0.1:{rig.port}") as other, rig.session() as slow, rig.session(other) as quick:
        await slow.start(1)
        await quick.start(1)
        await eventually(lambda: len(engine.requests) == 2)
        slow.reading.clear()
        for number in range(200):
            engine.step_all(number, "y" * 20_000)
            await asyncio.sleep(0)
        await quick.until(lambda: len(quick.events(1)) == 200)
        assert len(slow.events(1)) < 200


async def test_heartbeat_fills_silence(rig: Rig):
    async with rig.session() as session:
        before = len(session.messages)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await session.until(lambda: len(session.messages) >= before + 4)
        # At most half a second between two messages.
        assert loop.time() - began < 4 * 0.5 + 0.3
        assert all(message.step == 0 and message.HasField("load") for message in session.messages[before:])


async def test_credit_reaches_the_engine(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1, credit=10)
        await session.start(2)
        await eventually(lambda: len(engine.requests) == 2)
        assert [request.credit for request in engine.requests.values()] == [10, None]
        await session.send(credit=pb.StreamCredit(stream_id=1, tokens=7))
        await eventually(lambda: engine.granted == [(engine.keys[0], 7)])


async def test_credit_given_during_submit_is_not_lost(rig: Rig, engine: ManualEngine):
    engine.gate.clear()
    async with rig.session() as session:
        await session.start(1, credit=1)
        await eventually(lambda: engine.submitting == 1)
        await session.send(credit=pb.StreamCredit(stream_id=1, tokens=5))
        await session.send(credit=pb.StreamCredit(stream_id=1, tokens=6))
        await session.start(2)
        await eventually(lambda: engine.submitting == 2)
        assert engine.granted == []
        engine.gate.set()
        await eventually(lambda: len(engine.requests) == 2)
        assert engine.granted == [(engine.keys[0], 11)]


async def test_cancel_reaches_the_engine_and_silences_the_stream(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1)
        await session.start(2)
        await eventually(lambda: len(engine.requests) == 2)
        gone, kept = engine.keys
        await session.cancel(1)
        await eventually(lambda: engine.cancelled == [gone])
        engine.step(Delta(gone, 0, (1,), "late", position=0), Delta(kept, 0, (1,), "x", position=0))
        await session.until(lambda: session.text(2) == "x")
        assert session.kinds(1) == []
        assert rig.server.streams.counts.cancelled == 1


async def test_cancel_removes_events_that_wait_for_a_blocked_write(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1)
        await session.start(2)
        await eventually(lambda: len(engine.requests) == 2)
        session.reading.clear()
        steps = await _step_until_blocked(rig, engine)
        await session.cancel(1)
        await eventually(lambda: engine.cancelled)
        session.reading.set()
        await session.until(lambda: len(session.events(2)) == steps)
        assert len(session.events(1)) == steps - 1


async def _step_until_blocked(rig: Rig, engine: ManualEngine) -> int:
    """Make steps until the message of one is not taken by the transport; returns how many steps there were."""
    registry = rig.server.metrics.registry
    for number in itertools.count(1):
        before = registry.get_sample_value("mesh_worker_session_messages_total")
        engine.step_all(number, "z" * 100_000)
        try:
            await eventually(
                lambda before=before: registry.get_sample_value("mesh_worker_session_messages_total") != before, 0.3
            )
        except AssertionError:
            return number
    raise AssertionError("unreachable")


async def test_cancel_during_submit_wins(rig: Rig, engine: ManualEngine):
    engine.gate.clear()
    async with rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.submitting == 1)
        await session.cancel(1)
        await eventually(lambda: len(rig.server.streams) == 0)
        engine.gate.set()
        await eventually(lambda: engine.submitting == 0 and not engine.requests)
        assert session.kinds(1) == []


async def test_the_same_id_may_follow_a_stream_that_has_ended(rig: Rig, engine: ManualEngine):
    engine.gate.clear()
    async with rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.submitting == 1)
        await session.cancel(1)
        await session.start(1)
        await eventually(lambda: engine.submitting == 2)
        engine.gate.set()
        await eventually(lambda: len(engine.requests) == 1)
        engine.step_all(1, "second")
        await session.until(lambda: session.text(1) == "second")


async def test_cancel_of_an_unknown_stream_is_ignored(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.cancel(99)
        await session.send(credit=pb.StreamCredit(stream_id=99, tokens=1))
        await session.start(1)
        await eventually(lambda: engine.keys)
        assert not session.ended


async def test_hanging_up_cancels_every_row_at_once(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        for stream in range(8):
            await session.start(stream)
        await eventually(lambda: len(engine.requests) == 8)
        session.hang_up()
        await eventually(lambda: not engine.requests)
        assert len(rig.server.streams) == 0
        assert (await rig.admin.GetStats(admin_pb2.GetStatsRequest())).live_sessions == 0


async def test_hanging_up_during_submit_cancels_too(rig: Rig, engine: ManualEngine):
    engine.gate.clear()
    async with rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.submitting == 1)
        session.hang_up()
        await eventually(lambda: len(rig.server.streams) == 0)
        engine.gate.set()
        await eventually(lambda: engine.submitting == 0)
        assert engine.requests == {}


async def test_closing_the_sending_side_lets_streams_end(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.keys)
        await session.call.done_writing()
        engine.step_all(1, "still here")
        await session.until(lambda: session.text(1) == "still here")
        engine.step(Finished(engine.keys[0], 3, 1))
        await session.until(lambda: session.ended)
        assert session.kinds(1)[-1] == "finished"
        assert session.error is None


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (pb.GenerateRequest(), "invalid_request", "prompt"),
        (pb.GenerateRequest(text="x", model="other"), "model_not_found", "model"),
        (pb.GenerateRequest(text="x", sampling=pb.SamplingOptions(temperature=-1)), "invalid_request", "temperature"),
        (pb.GenerateRequest(text="x", expected_fingerprint="f"), "wrong_model", "expected_fingerprint"),
    ],
)
async def test_a_refused_request_fails_its_stream_only(
    rig: Rig, engine: ManualEngine, request_: pb.GenerateRequest, code: str, param: str
):
    async with rig.session() as session:
        await session.start(1)
        await session.start(2, request_)
        await session.until(lambda: session.failure(2) is not None)
        failure = session.failure(2)
        assert failure is not None
        assert (failure.code, failure.param) == (code, param)
        await eventually(lambda: engine.keys)
        engine.step_all(1, "unharmed")
        await session.until(lambda: session.text(1) == "unharmed")


async def test_the_engines_refusal_arrives_whole(rig: Rig, engine: ManualEngine):
    engine.refusal = MeshError(ErrorKind.OVERLOADED, "the queue holds 5 rows", retry_after=2.5)
    async with rig.session() as session:
        await session.start(1)
        await session.until(lambda: session.failure(1) is not None)
        expected = pb.Failure(code="overloaded", message="the queue holds 5 rows", retry_after=2.5)
        assert session.failure(1) == expected
        assert rig.server.streams.counts.failed == 1


async def test_an_unknown_exception_is_engine_failed_and_logged(
    rig: Rig, engine: ManualEngine, caplog: pytest.LogCaptureFixture
):
    engine.refusal = RuntimeError("secret detail")
    async with rig.session() as session:
        await session.start(1)
        await session.until(lambda: session.failure(1) is not None)
        failure = session.failure(1)
        assert failure is not None
        assert failure.code == "engine_failed"
        assert "secret" not in failure.message
        assert [record.exc_text for record in caplog.records if "secret detail" in (record.exc_text or "")]


async def test_a_row_that_breaks_fails_alone(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1)
        await session.start(2)
        await eventually(lambda: len(engine.requests) == 2)
        broken, sound = engine.keys
        error = MeshError(ErrorKind.DEADLINE_EXCEEDED, "too late")
        engine.step(Failed(broken, error), Delta(sound, 0, (1,), "x"))
        await session.until(lambda: session.text(2) == "x")
        failure = session.failure(1)
        assert failure is not None
        assert failure.code == "deadline_exceeded"


async def test_an_event_that_cannot_be_sent_fails_its_stream_alone(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1)
        await session.start(2)
        await eventually(lambda: len(engine.requests) == 2)
        broken, sound = engine.keys
        engine.step(Delta(broken, 0, (-1,), "no such id", position=0), Delta(sound, 0, (1,), "x", position=0))
        await session.until(lambda: session.text(2) == "x")
        assert session.kinds(1) == ["failed"]
        assert engine.cancelled == [broken]


async def test_drain_is_told_at_once_and_refuses_new_streams(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.keys)
        answer = await rig.admin.Drain(admin_pb2.DrainRequest())
        assert answer.live_streams == 1
        await session.until(lambda: session.messages[-1].draining, within=0.2)
        await session.start(2)
        await session.until(lambda: session.failure(2) is not None)
        failure = session.failure(2)
        assert failure is not None
        assert failure.code == "draining"
        engine.step_all(1, "goes on")
        await session.until(lambda: session.text(1) == "goes on")
        assert session.messages[-1].draining
        engine.step(Finished(engine.keys[0], 3, 1))
        assert await rig.server.wait_empty(LIMIT)


async def test_a_drain_that_is_called_off_is_told_and_takes_streams_again(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await rig.admin.Drain(admin_pb2.DrainRequest())
        await session.until(lambda: session.messages[-1].draining)
        await rig.admin.Undrain(admin_pb2.UndrainRequest())
        await session.until(lambda: session.messages[-1].undrained)
        assert not session.messages[-1].draining
        await session.start(1)
        await eventually(lambda: engine.keys)
        engine.step(Finished(engine.keys[0], 3, 1))
        await session.until(lambda: session.kinds(1) == ["finished"])
        assert not any(message.undrained or message.draining for message in session.messages[-1:])
        await rig.admin.Drain(admin_pb2.DrainRequest(stop=True))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rig.admin.Undrain(admin_pb2.UndrainRequest())
        assert wire.from_rpc_error(refused.value).kind is ErrorKind.DRAINING
        assert rig.server.streams.draining


async def test_stop_fails_what_is_left(engine: ManualEngine):
    async with serving(engine) as rig, rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.keys)
        await rig.server.stop()
        await session.until(lambda: session.ended)
        failure = session.failure(1)
        assert failure is not None
        assert failure.code == "draining"
        assert engine.stopped


@pytest.mark.parametrize(
    ("first", "status", "reason"),
    [
        (pb.SessionRequest(cancel=pb.StreamCancel(stream_id=1)), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        (
            pb.SessionRequest(open=pb.SessionOpen(expected_worker_id="other")),
            grpc.StatusCode.FAILED_PRECONDITION,
            "wrong_worker",
        ),
        (
            pb.SessionRequest(open=pb.SessionOpen(expected_incarnation="old")),
            grpc.StatusCode.FAILED_PRECONDITION,
            "wrong_worker",
        ),
    ],
)
async def test_a_wrong_opening_is_refused(rig: Rig, first: pb.SessionRequest, status: grpc.StatusCode, reason: str):
    call = rig.inference.Session()
    await call.write(first)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is status
    assert wire.from_rpc_error(caught.value).code == reason


@pytest.mark.parametrize(
    "command",
    [
        pb.SessionRequest(open=pb.SessionOpen()),
        pb.SessionRequest(),
        pb.SessionRequest(start=pb.StreamStart(stream_id=1, request=pb.GenerateRequest(text="again"))),
    ],
    ids=["opened twice", "no command", "id in use"],
)
async def test_a_client_that_breaks_the_protocol_loses_its_session(
    rig: Rig, engine: ManualEngine, command: pb.SessionRequest
):
    async with rig.session() as session:
        await session.start(1)
        await eventually(lambda: engine.keys)
        await session.call.write(command)
        await session.until(lambda: session.ended)
        assert session.error is not None
        assert session.error.code() is grpc.StatusCode.INVALID_ARGUMENT
        await eventually(lambda: not engine.requests)


async def test_a_bad_command_ends_the_session_though_a_message_is_under_way(rig: Rig):
    for _ in range(20):
        session = SessionClient(rig.inference.Session())
        for _ in range(2):
            await session.send(open=pb.SessionOpen(client="test"))
        await session.until(lambda session=session: session.ended)
        assert session.error is not None
        assert session.error.code() == grpc.StatusCode.INVALID_ARGUMENT
