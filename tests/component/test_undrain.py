"""A drain that is called off, as a gateway sees it: over the session, and in the registry, in whichever order."""

from __future__ import annotations

from mesh.v1 import admin_pb2
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING, WORKER_STATE_READY, ServedModel, WorkerRecord
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.whole_mesh import whole
from tests.component.worker_rig import Rig
from tests.harness import eventually


async def test_the_gateway_sends_requests_again() -> None:
    async with whole() as (gateway, rig):
        worker = rig.server.identity.worker_id
        await rig.admin.Drain(admin_pb2.DrainRequest())
        await eventually(lambda: not gateway.session(worker))
        await rig.admin.Undrain(admin_pb2.UndrainRequest())
        await eventually(lambda: gateway.session(worker))
        assert (await gateway.chat()).status_code == 200


async def test_the_registry_calls_a_drain_off_that_it_told_of() -> None:
    """As when its news comes after that of the session."""
    async with whole() as (gateway, rig):
        worker = rig.server.identity.worker_id
        _say(gateway, rig, draining=True)
        assert not gateway.session(worker)
        _say(gateway, rig, draining=False)
        assert gateway.session(worker)


async def test_a_record_from_before_the_drain_calls_nothing_off() -> None:
    async with whole() as (gateway, rig):
        worker = rig.server.identity.worker_id
        await rig.admin.Drain(admin_pb2.DrainRequest())
        await eventually(lambda: not gateway.session(worker))
        _say(gateway, rig, draining=False)
        assert not gateway.session(worker)


def _say(gateway: GatewayUnderTest, rig: Rig, *, draining: bool) -> None:
    """The registry's news of the worker."""
    identity, (model,) = rig.server.identity, rig.server.engine.models
    record = WorkerRecord(
        worker_id=identity.worker_id,
        incarnation=identity.incarnation,
        address=f"127.0.0.1:{rig.port}",
        slots=16,
        state=WORKER_STATE_DRAINING if draining else WORKER_STATE_READY,
        models=[ServedModel(name=model.name, fingerprint=model.fingerprint)],
    )
    gateway.directory.on_worker(identity.worker_id, record)
