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
        (model,) = engine.models
        identity = rig.server.identity
        record = WorkerRecord(
            worker_id=identity.worker_id,
            incarnation=identity.incarnation,
            address=f"127.0.0.1:{rig.port}",
            slots=16,
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
        gateway.directory.on_worker(identity.worker_id, record)
        await eventually(lambda: gateway.session(identity.worker_id))
        yield gateway, rig
