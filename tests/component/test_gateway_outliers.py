"""A worker that fails request after request is spared, shows now and then whether it is well, and is never the last."""

from __future__ import annotations

from mesh.errors import ErrorKind, MeshError
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually

BROKEN = MeshError(ErrorKind.ENGINE_FAILED, "out of memory")
SETTINGS = {"policy": "round_robin", "eject_after": 3, "eject_seconds": 0.4}


async def test_it_gets_fewer_and_comes_back() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest(**SETTINGS) as gateway:
        a.refusal = BROKEN
        await gateway.add(a, b)
        for _ in range(20):
            assert (await gateway.chat(max_tokens=1)).status_code == 200
        assert 3 <= len(a.starts) < 8
        assert gateway.metric("mesh_gateway_workers_spared") == 1
        a.refusal = None
        asked = len(a.starts)

        async def well() -> bool:
            assert (await gateway.chat(max_tokens=1)).status_code == 200
            return len(a.starts) > asked + 3

        await eventually(well, within=10)
        assert gateway.metric("mesh_gateway_workers_spared") == 0


async def test_the_last_one_gets_everything() -> None:
    async with FakeWorker("a") as a, GatewayUnderTest(**SETTINGS) as gateway:
        a.refusal = BROKEN
        await gateway.add(a)
        for _ in range(6):
            assert (await gateway.chat(max_tokens=1)).status_code == 500
        a.refusal = None
        assert (await gateway.chat(max_tokens=1)).status_code == 200
