"""Streams that are kept for a client that was lost, over a real socket, with an engine driven by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from mesh.engine.base import ChoiceFinished, Delta, Finished, FinishReason
from mesh.v1 import admin_pb2
from mesh.v1 import inference_pb2 as pb
from mesh.worker.keeper import MAX_EVENTS
from tests.component.manual_engine import ManualEngine
from tests.component.worker_rig import Rig, SessionClient, serving
from tests.harness import eventually

KEY = b"k" * 16
KEEP = pb.Keep(key=KEY, seconds=60)


@pytest.fixture
def engine() -> ManualEngine:
    return ManualEngine()


@pytest.fixture
async def rig(engine: ManualEngine) -> AsyncGenerator[Rig]:
    async with serving(engine) as rig:
        yield rig


async def begin(session: SessionClient, engine: ManualEngine, *, tokens: int = 2, keep: pb.Keep = KEEP) -> int:
    """Start a kept stream and give it some tokens; returns the engine's key."""
    known = set(engine.keys)
    await session.start(1, credit=8, keep=keep)
    await eventually(lambda: len(engine.keys) > len(known))
    [key] = set(engine.keys) - known
    engine.start_all()
    for number in range(tokens):
        engine.step_all(number, f"w{number} ")
    await session.until(lambda: len(session.events(1)) == tokens + 1)
    return key


async def orphaned(rig: Rig, engine: ManualEngine, *, keep: pb.Keep = KEEP) -> int:
    """A kept stream whose session is gone."""
    async with rig.session() as session:
        key = await begin(session, engine, keep=keep)
    await eventually(lambda: rig.server.metrics.registry.get_sample_value("mesh_worker_sessions") == 0)
    return key


def end(engine: ManualEngine, key: int) -> None:
    engine.step(ChoiceFinished(key, 0, FinishReason.STOP), Finished(key, prompt_tokens=3, completion_tokens=3))
    del engine.requests[key]


async def test_a_stream_outlives_its_session_and_is_taken_over_whole(rig: Rig, engine: ManualEngine):
    key = await orphaned(rig, engine)
    engine.step(Delta(key, 0, (7,), "alone "))
    async with rig.session() as session:
        await session.start(5, credit=8, keep=KEEP)
        await session.until(lambda: session.text(5) == "w0 w1 alone ")
        assert session.events(5)[0].started.kept
        engine.step(Delta(key, 0, (8,), "again"))
        end(engine, key)
        await session.until(lambda: session.kinds(5)[-1] == "finished")
        assert session.kinds(5) == ["started", *["delta"] * 4, "choice_finished", "finished"]
    assert (len(engine.requests), engine.cancelled) == (0, [])


async def test_without_being_asked_to_a_worker_keeps_nothing(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        await session.start(1, credit=8)
        await eventually(lambda: engine.keys)
        key = engine.keys[0]
    await eventually(lambda: engine.cancelled == [key])


@pytest.mark.parametrize("keep", [True, False])
async def test_a_cancel_says_whether_the_client_may_come_back(rig: Rig, engine: ManualEngine, keep: bool):
    async with rig.session() as session:
        key = await begin(session, engine)
        await session.send(cancel=pb.StreamCancel(stream_id=1, keep=keep))
        await session.start(2, credit=8, keep=KEEP)
        await session.until(lambda: engine.cancelled == [key] or len(session.events(2)) == 3)
        assert (engine.cancelled == []) == keep
        await eventually(lambda: len(engine.requests) == 1)  # the same one, or another


async def test_nobody_comes_within_the_grace_period(rig: Rig, engine: ManualEngine):
    key = await orphaned(rig, engine, keep=pb.Keep(key=KEY, seconds=0.05))
    await eventually(lambda: engine.cancelled == [key])
    assert len(rig.server.streams) == 0
    async with rig.session() as session:
        await session.start(1, credit=8, keep=KEEP)
        await eventually(lambda: len(engine.requests) == 1)
        assert engine.keys != [key]


async def test_a_stream_that_is_taken_over_in_time_has_no_limit_any_more(rig: Rig, engine: ManualEngine):
    keep = pb.Keep(key=KEY, seconds=0.3)
    key = await orphaned(rig, engine, keep=keep)
    async with rig.session() as session:
        await session.start(1, credit=8, keep=keep)
        await session.until(lambda: len(session.events(1)) == 3)
        other = await begin_other(session, engine)  # kept later and for as long: its end shows that the time is over
        await session.send(cancel=pb.StreamCancel(stream_id=9, keep=True))
        await eventually(lambda: engine.cancelled == [other])
        assert key in engine.keys


async def begin_other(session: SessionClient, engine: ManualEngine) -> int:
    await session.start(9, credit=8, keep=pb.Keep(key=b"o" * 16, seconds=0.3))
    await eventually(lambda: len(engine.keys) == 2)
    return engine.keys[-1]


@pytest.mark.parametrize("gone", [True, False], ids=["without its client", "before its client was lost"])
async def test_a_stream_that_has_ended_is_sent_again(rig: Rig, engine: ManualEngine, gone: bool):
    if gone:
        end(engine, await orphaned(rig, engine))
    else:
        async with rig.session() as session:
            end(engine, await begin(session, engine))
            await session.until(lambda: session.kinds(1)[-1] == "finished")
    for _ in range(2):
        async with rig.session() as session:
            await session.start(5, credit=8, keep=KEEP)
            await session.until(lambda: session.kinds(5)[-1:] == ["finished"])
            assert session.text(5) == "w0 w1 "
    assert engine.requests == {}


async def test_the_second_client_takes_over_and_the_first_is_told(rig: Rig, engine: ManualEngine):
    async with rig.session() as first, rig.session() as second:
        await begin(first, engine)
        await second.start(1, credit=8, keep=KEEP)
        await second.until(lambda: len(second.events(1)) == 3)
        await first.until(lambda: first.failure(1) is not None)
        failure = first.failure(1)
        assert failure is not None
        assert failure.code == "taken_over"
        engine.step_all(9, "news")
        await second.until(lambda: second.text(1).endswith("news"))
        assert first.text(1) == "w0 w1 "
    assert len(engine.requests) == 1


async def test_what_is_sent_again_is_outside_of_the_credit(rig: Rig, engine: ManualEngine):
    key = await orphaned(rig, engine)  # 8 tokens allowed, 2 of them made
    async with rig.session() as session:
        await session.start(1, credit=10, keep=KEEP)
        await session.until(lambda: len(session.events(1)) == 3)
        assert engine.granted == [(key, 4)]  # 10 more than the 2
        for tokens in (1, 5):
            await session.send(credit=pb.StreamCredit(stream_id=1, tokens=tokens))
        await eventually(lambda: engine.granted[1:] == [(key, 4)])  # 2 of the 6 were for what was there


@pytest.mark.parametrize(
    "start",
    [
        {"keep": pb.Keep(key=b"x" * 16, seconds=60)},
        {"keep": KEEP, "request": pb.GenerateRequest(text="p", expected_fingerprint="another")},
        {},
    ],
    ids=["another key", "another model", "no key"],
)
async def test_nobody_gets_a_stream_that_is_not_meant(rig: Rig, engine: ManualEngine, start: dict[str, pb.Keep]):
    key = await orphaned(rig, engine)
    async with rig.session() as session:
        await session.start(1, credit=8, **start)  # pyright: ignore[reportArgumentType]
        await session.until(lambda: session.failure(1) is not None or len(engine.requests) == 2)
        assert session.events(1)[:1] == [] or session.failure(1)
        assert key in engine.keys


async def test_a_drain_waits_for_no_client(rig: Rig, engine: ManualEngine):
    key = await orphaned(rig, engine)
    async with rig.session() as session:
        await session.start(2, credit=8, keep=pb.Keep(key=b"2" * 16, seconds=60))
        await eventually(lambda: len(engine.keys) == 2)
        await rig.admin.Drain(admin_pb2.DrainRequest())
        await eventually(lambda: engine.cancelled == [key])
        second = engine.keys[0]
    await eventually(lambda: engine.cancelled == [key, second])


async def test_a_stream_that_grows_too_long_is_as_mortal_as_others(rig: Rig, engine: ManualEngine):
    async with rig.session() as session:
        key = await begin(session, engine)
        engine.step(*(Delta(key, 0, (1,), "") for _ in range(MAX_EVENTS - 2)))
    await eventually(lambda: engine.cancelled == [key])


@pytest.mark.parametrize(
    ("start", "param"),
    [
        ({"credit": 8, "keep": pb.Keep(key=b"short", seconds=1)}, "keep.key"),
        ({"credit": 8, "keep": pb.Keep(key=KEY)}, "keep.seconds"),
        ({"credit": 8, "keep": pb.Keep(key=KEY, seconds=3601)}, "keep.seconds"),
        ({"keep": KEEP}, "keep"),
        ({"credit": 8, "keep": KEEP, "request": pb.GenerateRequest(text="p", resume=pb.Resume())}, "keep"),
    ],
)
async def test_a_bad_keep_is_refused_by_name(rig: Rig, engine: ManualEngine, start: dict[str, pb.Keep], param: str):
    async with rig.session() as session:
        await session.start(1, **start)  # pyright: ignore[reportArgumentType]
        await session.until(lambda: session.failure(1) is not None)
        failure = session.failure(1)
        assert failure is not None
        assert (failure.code, failure.param) == ("invalid_request", param)
    assert engine.requests == {}
