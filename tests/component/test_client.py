"""mesh.client against workers on the real wire and a real registry: what its caller sees while workers fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from mesh.client import (
    ChoiceFinished,
    Delta,
    ErrorKind,
    Event,
    Finished,
    GenerateRequest,
    Limits,
    MeshClient,
    MeshError,
    Started,
    SyncMeshClient,
)
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.join import JoinToken
from mesh.registry import EmbeddedRegistry, EtcdClient, EtcdOptions, encode, key_for
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING, WorkerRecord
from mesh.worker.events import capabilities
from tests.component.gateway_worker import FakeWorker, text_of_tokens, token_at
from tests.component.registry_rig import make_record
from tests.component.worker_rig import Rig, serving
from tests.harness import eventually

SECRET = "a secret of this mesh"
CHAT = [{"role": "user", "content": "hi"}]
QUICK = Limits(patience=1.0)


class Registry:
    """Where tests write who is there."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def put(self, *records: WorkerRecord) -> None:
        async with EtcdClient(EtcdOptions.from_url(self.address)) as etcd:
            for record in records:
                await etcd.put(key_for(record.worker_id).encode(), encode(record))


@asynccontextmanager
async def mesh(*workers: FakeWorker, **settings: Any) -> AsyncGenerator[tuple[MeshClient, Registry]]:
    """A client that knows these workers through a registry."""
    async with EmbeddedRegistry() as embedded:
        registry = Registry(embedded.address)
        await registry.put(*(worker.record() for worker in workers))
        async with MeshClient(registry.address, limits=QUICK, **settings) as client:
            yield client, registry


async def answer(client: MeshClient, **options: Any) -> list[Event]:
    options = {"seed": 7, **options}
    return [event async for event in client.generate("m", CHAT, **options)]


def tokens(events: Sequence[Event], choice: int = 0) -> list[int]:
    return [
        token for event in events if isinstance(event, Delta) and event.choice == choice for token in event.token_ids
    ]


def text(events: Sequence[Event], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.choice == choice)


def expected(length: int, choice: int = 0) -> list[int]:
    return [token_at(7, choice, place) for place in range(length)]


def check(events: Sequence[Event], length: int) -> None:
    """One answer of one choice, whole and each part once."""
    assert tokens(events) == expected(length)
    assert text(events) == text_of_tokens(expected(length))
    assert isinstance(events[0], Started)
    assert [type(event) for event in events[-2:]] == [ChoiceFinished, Finished]
    assert sum(isinstance(event, Started | Finished | ChoiceFinished) for event in events) == 3
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.usage.completion_tokens == length


async def after(client: MeshClient, count: int, what: Any, **options: Any) -> list[Event]:
    """An answer in which something happens once so many tokens are there."""
    events: list[Event] = []
    pending: Any = what
    async for event in client.generate("m", CHAT, seed=7, **options):
        events.append(event)
        if pending is not None and len(tokens(events)) >= count:
            done, pending = pending(), None
            if asyncio.iscoroutine(done):
                await done
    return events


def holder(*workers: FakeWorker) -> FakeWorker:
    """The worker that has the request."""
    return next(worker for worker in workers if worker.rows)


@pytest.fixture
async def two() -> AsyncGenerator[tuple[FakeWorker, FakeWorker]]:
    async with FakeWorker("w1", length=40) as one, FakeWorker("w2", length=40) as other:
        yield one, other


async def test_an_answer_with_several_choices(two: tuple[FakeWorker, FakeWorker]) -> None:
    async with mesh(*two) as (client, _):
        events = await answer(client, n=2, max_tokens=9, logprobs=0)
        assert tokens(events) == expected(9)
        assert tokens(events, 1) == expected(6, 1)
        assert all(len(event.logprobs) == len(event.token_ids) for event in events if isinstance(event, Delta))


async def test_the_models_are_those_of_the_registry(two: tuple[FakeWorker, FakeWorker]) -> None:
    async with mesh(*two) as (client, registry):
        await registry.put(make_record("other"))
        await eventually(lambda: _names(client, ["demo", "m"]))
        with pytest.raises(MeshError, match="no worker serves the model 'x'") as caught:
            async for _ in client.generate("x", "hi"):
                pass
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


async def _names(client: MeshClient, wanted: list[str]) -> bool:
    return [model.name for model in await client.models()] == wanted


@pytest.mark.parametrize("fault", ["killed", "silent", "draining", "swaps tokens"])
async def test_the_answer_goes_on_elsewhere(fault: str, two: tuple[FakeWorker, FakeWorker]) -> None:
    for worker in two:
        worker.heartbeat = 0.3
        if fault == "swaps tokens":
            worker.alter = swap_tenth

    def strike() -> Any:
        worker = holder(*two)
        match fault:
            case "killed":
                return worker.kill()
            case "silent":
                worker.silent = True
            case _:
                worker.draining = fault == "draining"
        return None

    async with mesh(*two) as (client, _):
        events = await after(client, 5, strike)
        check(events, 40)
    starts = [start for worker in two for start in worker.starts]
    assert len(starts) == 2
    assert all(worker.starts for worker in two)
    resumed = next(start.request for start in starts if start.request.HasField("resume"))
    done = len(resumed.resume.choices[0].token_ids)
    assert 5 <= done < 40
    assert resumed.expected_fingerprint == two[0].fingerprint


def swap_tenth(row: Any, events: Any) -> Any:
    for event in events:
        if event.HasField("delta") and event.delta.position == 10 and not row.request.HasField("resume"):
            event.delta.position = 11
    return events


async def test_another_model_of_the_same_name_is_no_place_to_go_on() -> None:
    one, other = FakeWorker("w1", length=40), FakeWorker("w2", length=40, fingerprint="sha256:other")
    async with one, other, mesh(one, other) as (client, _):
        with pytest.raises(MeshError) as caught:
            await after(client, 5, lambda: holder(one, other).kill())
    assert caught.value.kind is ErrorKind.WORKER_LOST
    assert len(one.starts) + len(other.starts) == 1


async def test_an_answer_without_token_ids_is_not_begun_twice(two: tuple[FakeWorker, FakeWorker]) -> None:
    for worker in two:
        worker.text_only = True
    async with mesh(*two) as (client, _):
        with pytest.raises(MeshError) as caught:
            await kill_with_the_first_text(client, two)
    assert caught.value.kind is ErrorKind.WORKER_LOST
    assert sum(len(worker.starts) for worker in two) == 1


async def kill_with_the_first_text(client: MeshClient, two: tuple[FakeWorker, FakeWorker]) -> None:
    async for event in client.generate("m", CHAT):
        if isinstance(event, Delta):
            await asyncio.gather(*(worker.kill() for worker in two if worker.rows))


async def test_a_full_worker_sends_it_elsewhere(two: tuple[FakeWorker, FakeWorker]) -> None:
    two[0].refusal = MeshError(ErrorKind.OVERLOADED, "full", retry_after=30.0)
    async with mesh(*two) as (client, _):
        for _ in range(5):
            check(await answer(client, max_tokens=4), 4)
        assert len(two[0].starts) <= 1
        two[1].refusal = two[0].refusal
        with pytest.raises(MeshError, match="full"):
            await answer(client)


async def test_a_bad_request_is_not_tried_elsewhere(two: tuple[FakeWorker, FakeWorker]) -> None:
    for worker in two:
        worker.refusal = MeshError(ErrorKind.INVALID_REQUEST, "'n' must be less", param="n")
    async with mesh(*two) as (client, _):
        with pytest.raises(MeshError) as caught:
            await answer(client)
    assert (caught.value.code, caught.value.message) == ("invalid_request", "'n' must be less")
    assert sum(len(worker.starts) for worker in two) == 1


async def test_leaving_the_loop_cancels(two: tuple[FakeWorker, FakeWorker]) -> None:
    async with mesh(*two) as (client, _):
        async with aclosing(client.generate("m", CHAT, max_tokens=10_000)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        await eventually(lambda: not any(worker.rows for worker in two))
        assert sum(len(worker.cancels) for worker in two) == 1


async def test_who_does_not_read_holds_up_nobody_else(two: tuple[FakeWorker, FakeWorker]) -> None:
    async with mesh(two[0]) as (client, _), aclosing(client.generate("m", CHAT, seed=7, max_tokens=1000)) as slow:
        events = [await anext(slow) for _ in range(3)]
        row = next(iter(two[0].rows.values()))
        await eventually(lambda: row.credit == 0)
        assert QUICK.credit <= len(row.tokens[0]) <= QUICK.credit + 3
        check(await answer(client, max_tokens=20), 20)
        assert row.credit == 0
        check([*events, *[event async for event in slow]], 1000)


async def test_a_draining_worker_gets_nothing_new(two: tuple[FakeWorker, FakeWorker]) -> None:
    async with mesh(*two) as (client, registry):
        record = two[0].record()
        record.state = WORKER_STATE_DRAINING
        await registry.put(record)
        await eventually(lambda: _drains(client))
        for _ in range(4):
            check(await answer(client, max_tokens=2), 2)
        assert not two[0].starts


async def test_a_worker_whose_drain_is_called_off_is_asked_again(two: tuple[FakeWorker, FakeWorker]) -> None:
    async with mesh(two[0]) as (client, _):
        two[0].heartbeat = 0.1  # so that it tells of itself often
        check(await answer(client, max_tokens=2), 2)
        two[0].draining = True
        await eventually(lambda: _drains(client))
        two[0].draining = False
        check(await answer(client, max_tokens=3), 3)


async def _drains(client: MeshClient) -> bool:
    return sum(worker.draining for worker in client._workers._workers.values()) == 1  # pyright: ignore[reportPrivateUsage]


async def test_a_worker_that_comes_later_is_waited_for() -> None:
    async with (
        FakeWorker("w1", length=40) as one,
        FakeWorker("w2", length=40) as other,
        mesh(one) as (client, registry),
    ):

        async def swap() -> None:
            await one.kill()
            await registry.put(other.record())

        check(await after(client, 5, swap), 40)


async def test_workers_by_address_and_a_limit_of_time(two: tuple[FakeWorker, FakeWorker]) -> None:
    async with MeshClient(workers=[worker.address for worker in two], limits=QUICK) as client:
        check(await after(client, 5, lambda: holder(*two).kill()), 40)
        with pytest.raises(MeshError, match="needs 'etcd'"):
            await client.models()
        await eventually(lambda: not any(worker.rows for worker in two))
        for worker in two:
            worker.stalled = True
        request = GenerateRequest(model="m", text="x", deadline_ms=200)
        with pytest.raises(MeshError) as caught:
            async for _ in client.run(request):
                pass
    assert caught.value.kind is ErrorKind.DEADLINE_EXCEEDED


def served(rig: Rig) -> WorkerRecord:
    """What the worker of a rig says of itself in the registry."""
    identity = rig.server.identity
    record = make_record(identity.worker_id, identity.incarnation)
    record.address = f"127.0.0.1:{rig.port}"
    del record.models[:]
    for model in rig.server.engine.models:
        record.models.add(
            name=model.name, fingerprint=model.fingerprint, context_length=64, capabilities=capabilities(model)
        )
    if identity.join is not None:
        record.proof = identity.join.record(record)
    return record


@pytest.mark.parametrize("sessions", [True, False])
async def test_both_calls_say_the_same_and_embeddings(sessions: bool) -> None:
    engine = ScriptedEngine(ScriptedOptions(name="m", tokens=12, step_interval=0.002))
    async with serving(engine) as rig, mesh(sessions=sessions) as (client, registry):
        await registry.put(served(rig))
        await eventually(lambda: _names(client, ["m"]))
        events = await answer(client)
        assert len(tokens(events)) == 13  # the last one ends the turn
        async with MeshClient(workers=[f"127.0.0.1:{rig.port}"], sessions=not sessions) as other:
            assert tokens(await answer(other)) == tokens(events)
            assert text(await answer(other)) == text(events)
            assert await other.embed("m", ["a"]) == await client.embed("m", ["a"])
            with pytest.raises(MeshError, match="'x' is not served here"):
                async for _ in other.generate("x", "hi"):
                    pass
        with pytest.raises(MeshError, match="temperature"):
            await answer(client, temperature=-1.0)
        async with aclosing(client.generate("m", CHAT, max_tokens=4000, ignore_eos=True)) as left:
            await anext(left)
        await eventually(lambda: rig.server.streams.counts.cancelled == 1)


async def test_a_mesh_with_a_join_token() -> None:
    engine = ScriptedEngine(ScriptedOptions(name="m", tokens=4))
    token = JoinToken(SECRET)
    async with serving(engine, join=token) as rig, mesh(join_token=SECRET) as (client, registry):
        await registry.put(served(rig))
        await eventually(lambda: _names(client, ["m"]))
        assert len(tokens(await answer(client))) == 5
        assert len(await client.embed("m", ["a"])) == 1
        async with MeshClient(workers=[f"127.0.0.1:{rig.port}"]) as stranger:
            with pytest.raises(MeshError, match="join token") as caught:
                await answer(stranger)
        assert caught.value.kind is ErrorKind.UNAUTHORIZED
        # A record without a proof is nobody's.
        forged = served(rig)
        forged.worker_id, forged.proof = "forged", ""
        await registry.put(forged)
        other = make_record("other")
        other.proof = token.record(other)
        await registry.put(other)
        await eventually(lambda: _names(client, ["demo", "m"]))
        assert "forged" not in client._workers._workers  # pyright: ignore[reportPrivateUsage]


async def test_what_cannot_be_is_said_by_name() -> None:
    for arguments, why in (
        ({}, "either 'etcd' or 'workers'"),
        ({"etcd": "x", "workers": ["y"]}, "either 'etcd' or 'workers'"),
        ({"workers": "host:1"}, "must be a list"),
        ({"workers": ["host:1"], "sessions": False, "join_token": SECRET}, "needs sessions"),
    ):
        with pytest.raises(MeshError, match=why):
            MeshClient(**arguments)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MeshError, match="no etcd answers"):
        async with MeshClient("127.0.0.1:1"):
            pass
    async with MeshClient(workers=["127.0.0.1:1"], limits=Limits(patience=0.2)) as client:
        with pytest.raises(MeshError) as caught:
            await answer(client)
        assert caught.value.kind is ErrorKind.WORKER_LOST
        with pytest.raises(TypeError, match="'temprature' is no option"):
            await answer(client, temprature=1)
        with pytest.raises(MeshError, match="use ChatMessage for 'name'"):
            [event async for event in client.generate("m", [{"role": "user", "content": "x", "name": "y"}])]
        with pytest.raises(MeshError, match="'stop' must be a list"):
            await answer(client, stop="x")
        with pytest.raises(MeshError, match="not empty"):
            [event async for event in client.generate("m", [])]


def test_a_client_that_is_not_open_says_so() -> None:
    client = SyncMeshClient(workers=["127.0.0.1:1"])
    for ask in (client.models, lambda: client.embed("m", ["a"]), lambda: list(client.generate("m", "a"))):
        with pytest.raises(MeshError, match="not open"):
            ask()
