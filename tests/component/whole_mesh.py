"""A gateway and a worker with the scripted engine, both in this process and over real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord
from mesh.worker.events import capabilities
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.worker_rig import Rig, serving
from tests.harness import eventually

SHORT = ScriptedOptions(name="m", tokens=4, context_length=64, slots=16)


@asynccontextmanager
async def whole(options: ScriptedOptions = SHORT, **settings: Any) -> AsyncGenerator[tuple[GatewayUnderTest, Rig]]:
    """Everything, running. `options` are the engine's, `settings` the gateway's."""
    engine = ScriptedEngine(options)
    async with serving(engine) as rig, GatewayUnderTest(image_urls=False, **settings) as gateway:
        await add(gateway, rig)
        yield gateway, rig


async def add(gateway: GatewayUnderTest, *rigs: Rig) -> None:
    """Let workers appear in the registry, and wait for their sessions."""
    for rig in rigs:
        record = record_of(rig)
        gateway.directory.on_worker(record.worker_id, record)
        await eventually(lambda name=record.worker_id: gateway.session(name))


def record_of(rig: Rig) -> WorkerRecord:
    """What a worker with one model writes into the registry."""
    (model,) = rig.server.engine.models
    identity = rig.server.identity
    return WorkerRecord(
        worker_id=identity.worker_id,
        incarnation=identity.incarnation,
        address=f"127.0.0.1:{rig.port}",
        slots=rig.server.engine.load().slots,
        state=WORKER_STATE_READY,
        models=[
            ServedModel(
                name=model.name,
                fingerprint=model.fingerprint,
                context_length=model.context_length,
                capabilities=capabilities(model),
            )
        ],
    )
