"""Who is there: the registry proposes, the session disposes."""

from __future__ import annotations

import asyncio

from mesh.errors import ErrorKind, MeshError
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING
from tests.component.gateway_fixture import GatewayUnderTest, text
from tests.component.gateway_worker import FakeWorker, text_of_tokens, token_at
from tests.harness import eventually


async def test_a_worker_that_vanished_from_the_registry_stays_while_it_answers() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        gateway.directory.on_worker("w", None)
        assert (await gateway.chat()).status_code == 200
        gateway.directory.on_worker("w", worker.record())
        assert (await gateway.chat()).status_code == 200
        assert worker.sessions == 1


async def test_its_grace_ends() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest(grace_period=0.3) as gateway:
        await gateway.add(worker)
        gateway.directory.on_worker("w", None)
        assert gateway.session("w")
        await eventually(lambda: not gateway.directory.sessions())


async def test_a_worker_that_is_listed_again_loses_its_limit() -> None:
    async with FakeWorker("w") as worker, FakeWorker("v") as other, GatewayUnderTest(grace_period=0.4) as gateway:
        await gateway.add(worker, other)
        gateway.directory.on_worker("w", None)
        gateway.directory.on_worker("v", None)
        gateway.directory.on_worker("w", worker.record())
        await eventually(lambda: not gateway.session("v"))
        assert gateway.session("w")


async def test_a_worker_that_drains_leaves_at_once_and_ends_its_streams() -> None:
    async with FakeWorker("w", pause=0.01) as worker, GatewayUnderTest(queue_timeout=0.0) as gateway:
        await gateway.add(worker)
        answer = asyncio.create_task(gateway.stream(max_tokens=30))
        await eventually(lambda: worker.rows)
        record = worker.record()
        record.state = WORKER_STATE_DRAINING
        gateway.directory.on_worker("w", record)
        assert not gateway.session("w")
        gateway.directory.on_worker("w", None)
        assert not gateway.directory.sessions()
        assert (await gateway.chat()).status_code == 503
        assert text(await answer) == text_of_tokens([token_at(7, 0, position) for position in range(30)])


async def test_a_new_incarnation_replaces_the_old_one() -> None:
    async with FakeWorker("w") as old, FakeWorker("w", incarnation="i2") as new, GatewayUnderTest() as gateway:
        await gateway.add(old)
        await gateway.add(new)
        await eventually(lambda: gateway.session("w"))
        assert (await gateway.chat()).status_code == 200
        assert (len(old.starts), len(new.starts)) == (0, 1)


async def test_another_worker_at_the_same_address_gets_nothing() -> None:
    async with FakeWorker("other") as other, GatewayUnderTest(queue_timeout=0.3) as gateway:
        record = other.record()
        record.worker_id = "w"
        gateway.directory.on_worker("w", record)
        await eventually(lambda: other.sessions >= 2)  # it was tried again
        assert (await gateway.chat()).status_code == 503
        assert other.starts == []


async def test_a_worker_that_comes_back_is_used_again() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        port = int(worker.address.rpartition(":")[2])
        await worker.kill()
        await eventually(lambda: not gateway.session("w"))
        answer = asyncio.create_task(gateway.chat())
        await eventually(lambda: gateway.waiting == 1)
        await worker.start(port)
        assert (await answer).status_code == 200


async def test_two_models_under_one_name_both_take_new_requests() -> None:
    async with (
        FakeWorker("a", slots=1) as a,
        FakeWorker("b", slots=1, fingerprint="sha256:other") as b,
        GatewayUnderTest() as gateway,
    ):
        await gateway.add(a, b)
        answers = [asyncio.create_task(gateway.chat(max_tokens=200)) for _ in range(6)]
        for answer in answers:
            assert (await answer).status_code == 200
        assert len(a.starts) + len(b.starts) == 6
        assert min(len(a.starts), len(b.starts)) >= 2


async def test_an_adapter_is_listed_with_what_it_changes() -> None:
    async with FakeWorker("w", models=("m", "m-law")) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        record = worker.record()
        record.models[1].base = "m"
        gateway.directory.on_worker("w", record)
        listed = (await gateway.http.get("/v1/models")).json()["data"]
    assert [(each["id"], each["root"], each["parent"]) for each in listed] == [("m", "m", None), ("m-law", "m", "m")]


async def test_a_model_that_its_workers_have_let_go_is_not_waited_for() -> None:
    async with (
        FakeWorker("w", models=("m", "law")) as one,
        FakeWorker("v", models=("m", "law")) as other,
        GatewayUnderTest(queue_timeout=30.0) as gateway,
    ):
        await gateway.add(one, other)
        for worker, status in ((one, 200), (other, 404)):
            worker.models = ("m",)
            gateway.directory.on_worker(worker.worker_id, worker.record())
            assert (await gateway.chat(model="law")).status_code == status


async def test_a_worker_that_has_just_let_a_model_go_is_left_for_another() -> None:
    """Its record in the registry is older than its refusal."""
    async with FakeWorker("w") as one, FakeWorker("v") as other, GatewayUnderTest(policy="round_robin") as gateway:
        one.refusal = MeshError(ErrorKind.MODEL_NOT_FOUND, "model 'm' is not served here", param="model")
        await gateway.add(one, other)
        answers = [await gateway.chat() for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert one.starts
        other.refusal = one.refusal
        refused = await gateway.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
