"""The end of a worker whose engine has broken down."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import wire
from mesh.registry import EtcdClient, prefix_end
from mesh.registry.records import WORKERS_PREFIX, decode
from mesh.v1 import inference_pb2 as pb
from mesh.v1 import inference_pb2_grpc, registry_pb2
from mesh.worker.config import WorkerConfig
from mesh.worker.lifecycle import run
from tests.component.manual_engine import ManualEngine
from tests.component.worker_rig import SessionClient
from tests.etcd_server import EtcdServer
from tests.harness import eventually

LIMIT = 10.0


class Fragile(ManualEngine):
    """Breaks down when it is told to; its requests are left to whoever watches."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = asyncio.Event()

    async def wait_broken(self) -> None:
        await self.broken.wait()


async def records(client: EtcdClient) -> list[registry_pb2.WorkerRecord]:
    prefix = WORKERS_PREFIX.encode()
    return [decode(item.value) for item in (await client.range(prefix, prefix_end(prefix))).kvs]


async def test_a_worker_without_an_engine_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    engine = Fragile()
    async with EtcdServer(tmp_path, arguments=["--unsafe-no-fsync"]) as etcd, EtcdClient(etcd.options()) as client:
        config = WorkerConfig(engine="scripted", port=0, etcd=f"http://127.0.0.1:{etcd.port}", metrics=False)
        worker = asyncio.create_task(run(config, engine))
        (record,) = await eventually(lambda: records(client), LIMIT)
        async with wire.channel(record.address) as channel:
            session = SessionClient(inference_pb2_grpc.InferenceServiceStub(channel).Session())
            await session.send(open=pb.SessionOpen(client="test"))
            await session.start(1)
            watch = cast("Any", health_pb2_grpc.HealthStub)(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await eventually(lambda: engine.keys)
            engine.broken.set()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await asyncio.wait_for(worker, LIMIT) == 1
            await session.until(lambda: session.ended)
            failure = session.failure(1)
            assert failure is not None
            assert failure.code == "engine_failed"
            assert any(message.draining for message in session.messages)
            session.hang_up()
        assert await records(client) == []
    assert engine.stopped
    assert [line.message for line in caplog.records if line.levelname == "CRITICAL"] == [
        "the engine has broken down: this worker ends"
    ]
