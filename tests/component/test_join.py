"""A mesh with a join token: gateways, workers and strangers in every combination, over the real wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import wire
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.errors import ErrorKind
from mesh.join import NONCE_SECONDS, CallGate, CallProof, JoinToken
from mesh.registry import EmbeddedRegistry, EtcdClient, EtcdOptions, encode, key_for, watch_workers
from mesh.v1 import admin_pb2, admin_pb2_grpc
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.component.registry_rig import make_record, running
from tests.component.worker_rig import Rig, SessionClient, serving
from tests.harness import eventually

SECRET = "a secret of this mesh"
TOKEN = JoinToken(SECRET)
OTHER = JoinToken("a secret of another mesh")


def engine() -> ScriptedEngine:
    return ScriptedEngine(ScriptedOptions())


def record(rig: Rig) -> WorkerRecord:
    """What the worker of a rig would write into the registry, proof included."""
    identity = rig.server.identity
    made = WorkerRecord(
        worker_id=identity.worker_id,
        incarnation=identity.incarnation,
        address=f"127.0.0.1:{rig.port}",
        slots=8,
        state=WORKER_STATE_READY,
    )
    for model in rig.server.engine.models:
        made.models.append(
            ServedModel(name=model.name, fingerprint=model.fingerprint, capabilities=[pb.CAPABILITY_CHAT])
        )
    if identity.join is not None:
        made.proof = identity.join.record(made)
    return made


async def test_who_has_the_token_is_served() -> None:
    async with serving(engine(), join=TOKEN) as rig, GatewayUnderTest(join_token=SECRET) as gateway:
        gateway.directory.on_worker("worker-under-test", record(rig))
        await eventually(lambda: gateway.session("worker-under-test"))
        assert (await gateway.chat(model="scripted", max_tokens=3)).status_code == 200
        # The same connection proves it for calls with one answer, as those for embeddings.
        async with wire.channel(f"127.0.0.1:{rig.port}", interceptors=[CallProof(TOKEN)]) as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            for _ in range(2):
                assert (await admin.GetStats(admin_pb2.GetStatsRequest())).streams_finished == 1


@pytest.mark.parametrize(
    ("gateway_has", "worker_has", "why"),
    [
        (SECRET, None, "the worker did not prove that it has the mesh's join token"),
        (SECRET, OTHER, "the worker did not prove that it has the mesh's join token"),
        (None, TOKEN, "this worker asks for the mesh's join token, which the gateway does not have"),
    ],
)
async def test_a_gateway_and_a_worker_of_different_meshes_do_not_speak(
    caplog: pytest.LogCaptureFixture, gateway_has: str | None, worker_has: JoinToken | None, why: str
) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(engine(), join=worker_has) as rig, GatewayUnderTest(join_token=gateway_has) as gateway:
        gateway.directory.on_worker("worker-under-test", record(rig))
        await eventually(lambda: why in [getattr(line, "facts", {}).get("why") for line in caplog.records])
        assert rig.server.streams.counts.started == 0


async def test_an_impostor_at_a_workers_address_receives_no_prompt() -> None:
    async with GatewayUnderTest(join_token=SECRET, queue_timeout=0.5) as gateway, FakeWorker("w1") as impostor:
        gateway.directory.on_worker("w1", impostor.record())
        await eventually(lambda: impostor.sessions >= 2)
        assert (await gateway.chat()).status_code == 503
        assert not impostor.starts


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_stranger_at_a_workers_port_can_do_nothing_but_ask_for_its_health() -> None:
    async with serving(engine(), join=TOKEN) as rig:
        admin, inference = rig.admin, rig.inference
        calls = [
            admin.GetStats(admin_pb2.GetStatsRequest()),
            admin.Drain(admin_pb2.DrainRequest(stop=True)),
            admin.LoadAdapter(admin_pb2.LoadAdapterRequest(name="a", path="/")),
            inference.Embed(pb.EmbedRequest(inputs=[pb.EmbedInput(text="x")])),
            inference.Tokenize(pb.TokenizeRequest(text="x")),
            inference.DescribeModel(pb.DescribeModelRequest()),
            inference.Generate(pb.GenerateRequest(text="x")).read(),
        ]
        for call in calls:
            error = wire.from_rpc_error(await refused(call))
            assert (error.kind, error.message) == (
                ErrorKind.UNAUTHORIZED,
                "this worker asks for the mesh's join token",
            )
        health = cast("Any", health_pb2_grpc.HealthStub(rig.channel))
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert not rig.server.stopping.is_set()
        assert rig.server.streams.counts.started == 0


START = {"start": pb.StreamStart(stream_id=1, request=pb.GenerateRequest(text="x"))}


@pytest.mark.parametrize("command", [START, {"prove": pb.SessionProof(proof=b"x" * 32)}, {"prove": pb.SessionProof()}])
async def test_a_stranger_cannot_use_a_session(command: dict[str, Any]) -> None:
    async with serving(engine(), join=TOKEN) as rig:
        session = SessionClient(rig.inference.Session())
        await session.send(open=pb.SessionOpen(client="stranger", nonce=b"n" * 32))
        await session.until(lambda: bool(session.messages))
        await session.send(**command)
        await session.until(lambda: session.ended)
        assert session.error is not None
        assert session.error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert rig.server.streams.counts.started == 0


async def test_a_stranger_that_waits_is_sent_away() -> None:
    async with serving(engine(), join=TOKEN) as rig:
        session = SessionClient(rig.inference.Session())
        await session.send(open=pb.SessionOpen(client="stranger", nonce=b"n" * 32))
        await session.until(lambda: session.ended)
        assert session.error is not None
        assert session.error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_proof_of_one_call_is_good_for_no_other_and_not_for_ever() -> None:
    now = 1000.0
    drain, stats = "/mesh.v1.AdminService/Drain", "/mesh.v1.AdminService/GetStats"
    gate = CallGate(TOKEN, lambda: now)
    async with serving(engine(), interceptors=[gate]) as rig:

        async def code(proof: str, *, method: Callable[..., Any] | None = None) -> grpc.StatusCode:
            call = (method or rig.admin.GetStats)(admin_pb2.GetStatsRequest(), metadata=(("mesh-proof", proof),))
            return await call.code()

        nonce = str((await refused(rig.admin.GetStats(admin_pb2.GetStatsRequest()))).trailing_metadata()["mesh-nonce"])
        good = f"{nonce}.{TOKEN.call(nonce, stats)}"
        assert await code(good) is grpc.StatusCode.OK
        own = f"1000.{'0' * 64}"
        bad = [
            f"{nonce}.{TOKEN.call(nonce, drain)}",
            f"{nonce}.{OTHER.call(nonce, stats)}",
            f"{own}.{TOKEN.call(own, stats)}",
            f"9{good}",
            nonce,
            "",
            "..",
        ]
        for proof in bad:
            assert await code(proof) is grpc.StatusCode.UNAUTHENTICATED, proof
        now += NONCE_SECONDS + 1
        assert await code(good) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_client_asks_again_when_its_nonce_is_too_old() -> None:
    now = 1000.0
    async with serving(engine(), interceptors=[CallGate(TOKEN, lambda: now)]) as rig:
        async with wire.channel(f"127.0.0.1:{rig.port}", interceptors=[CallProof(TOKEN)]) as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            await admin.GetStats(admin_pb2.GetStatsRequest())
            now += 2 * NONCE_SECONDS
            await admin.GetStats(admin_pb2.GetStatsRequest())
        async with wire.channel(f"127.0.0.1:{rig.port}", interceptors=[CallProof(OTHER)]) as channel:
            error = await refused(admin_pb2_grpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest()))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert error.details() == "this worker has another join token"


async def test_forged_records_in_the_registry_are_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    known: dict[str, WorkerRecord | None] = {}
    genuine = make_record("w1")
    genuine.proof = TOKEN.record(genuine)
    elsewhere = make_record("w1")
    elsewhere.address, elsewhere.proof = "10.6.6.6:50051", genuine.proof
    stranger = make_record("w2")
    last = make_record("w3")
    last.proof = TOKEN.record(last)
    async with (
        EmbeddedRegistry() as registry,
        EtcdClient(EtcdOptions.from_url(registry.address)) as client,
        running(lambda: watch_workers(client, known.__setitem__, check=TOKEN.check_record)),
    ):
        for each in (genuine, elsewhere, stranger, last):
            await client.put(key_for(each.worker_id).encode(), encode(each))
            await eventually(lambda: "w1" in known)
        await eventually(lambda: "w3" in known)
    assert known.keys() == {"w1", "w3"}
    assert known["w1"] == genuine
    assert [getattr(line, "facts", {}).get("why") for line in caplog.records if line.levelno == logging.WARNING] == [
        "its proof is not of this join token",
        "its proof is missing",
    ]


async def test_without_a_token_all_is_as_it_was() -> None:
    async with serving(engine()) as rig, GatewayUnderTest() as gateway:
        gateway.directory.on_worker("worker-under-test", record(rig))
        await eventually(lambda: gateway.session("worker-under-test"))
        answers = await asyncio.gather(*(gateway.chat(model="scripted", max_tokens=3) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [200] * 3
        await InferenceServiceStub(rig.channel).Tokenize(pb.TokenizeRequest(text="x"))
