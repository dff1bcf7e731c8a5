"""One worker, several engines: requests find theirs, and sessions see one worker."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mesh.engine.base import Finished, ModelInfo
from mesh.engine.several import SeveralEngines
from mesh.errors import MeshError
from mesh.v1 import admin_pb2
from mesh.v1 import inference_pb2 as pb
from tests.component.manual_engine import INFO, ManualEngine
from tests.component.worker_rig import serving
from tests.harness import eventually


def engine(name: str) -> ManualEngine:
    return ManualEngine([replace(INFO, name=name, fingerprint=f"of-{name}")])


def ask(model: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(model=model, text="hi")


async def test_requests_find_their_model_and_a_session_sees_one_worker():
    a, b = engine("a"), engine("b")
    async with serving(SeveralEngines([a, b])) as rig, rig.session() as client:
        await client.start(1, ask("a"), credit=5)
        await client.start(2, ask("b"))
        await client.start(3, ask("c"))
        await client.until(lambda: client.failure(3) is not None)
        assert client.failure(3).code == "model_not_found"  # pyright: ignore[reportOptionalMemberAccess]
        await eventually(lambda: len(a.keys) == len(b.keys) == 1)
        for each in (a, b, a, b):
            each.step_all(7, "x")
        await client.until(lambda: (client.text(1), client.text(2)) == ("xx", "xx"))
        numbers = [message.step for message in client.steps]
        assert numbers == sorted(set(numbers)), "step numbers rise over both engines"
        load = client.steps[-1].load
        assert (load.running, load.slots, load.steps) == (2, 16, 4)
        await client.send(credit=pb.StreamCredit(stream_id=1, tokens=9))
        await eventually(lambda: a.granted)
        await client.cancel(2)
        await eventually(lambda: b.cancelled)
        assert a.cancelled == []
        assert b.granted == []


async def test_counters_are_sums_and_models_are_described():
    a, b = engine("a"), engine("b")
    async with serving(SeveralEngines([a, b])) as rig:
        a.step()
        b.step()
        b.step()
        stats = await rig.admin.GetStats(admin_pb2.GetStatsRequest())
        assert stats.engine["steps"] == 3
        described = await rig.inference.DescribeModel(pb.DescribeModelRequest(model="b"))
        assert described.fingerprint == "of-b"


async def test_a_request_that_is_cancelled_while_its_engine_thinks_is_cancelled_there():
    a = engine("a")
    several = SeveralEngines([a, engine("b")])
    async with serving(several) as rig, rig.session() as client:
        a.gate.clear()
        await client.start(1, ask("a"))
        await eventually(lambda: a.submitting)
        await client.cancel(1)
        await eventually(lambda: a.cancelled)
        a.gate.set()
        await eventually(lambda: not a.submitting)
        await eventually(lambda: not a.keys)


async def test_ended_requests_are_forgotten():
    a = engine("a")
    async with serving(SeveralEngines([a, engine("b")])) as rig, rig.session() as client:
        await client.start(1, ask("a"))
        (key,) = await eventually(lambda: a.keys)
        a.step(Finished(key, 1, 0))
        await client.until(lambda: client.kinds(1) == ["finished"])
        rig.server.engine.cancel(key)
        assert a.cancelled == []


class Adapting(ManualEngine):
    """Notes the adapters that it is given."""

    def __init__(self, name: str) -> None:
        super().__init__([replace(INFO, name=name)])

    async def load_adapter(self, base: str, name: str, path: str) -> ModelInfo:
        info = replace(INFO, name=name, base=base)
        self._models = [*self._models, info]
        return info

    async def unload_adapter(self, name: str) -> None:
        self._models = [model for model in self._models if model.name != name]


async def test_adapters_go_to_their_base_and_have_names_of_their_own():
    a, b = Adapting("a"), Adapting("b")
    several = SeveralEngines([a, b])
    assert (await several.load_adapter("b", "x", "path")).base == "b"
    assert [model.name for model in several.models] == ["a", "b", "x"]
    with pytest.raises(MeshError, match="'x', which is served already"):
        await several.load_adapter("a", "x", "path")
    with pytest.raises(MeshError, match="'base' must be given"):
        await several.load_adapter("", "y", "path")
    await several.unload_adapter("x")
    assert [model.name for model in several.models] == ["a", "b"]
    with pytest.raises(MeshError, match="'x' is not served here"):
        await several.unload_adapter("x")


async def test_one_that_breaks_down_breaks_all():
    class Fragile(ManualEngine):
        broken = asyncio.Event()

        async def wait_broken(self) -> None:
            await self.broken.wait()

    fragile = Fragile()
    waiting = asyncio.create_task(SeveralEngines([engine("a"), fragile]).wait_broken())
    await asyncio.sleep(0)
    assert not waiting.done()
    fragile.broken.set()
    await asyncio.wait_for(waiting, 1)


async def test_two_models_of_one_name_are_refused():
    with pytest.raises(MeshError, match="2 are called 'a'"):
        await SeveralEngines([engine("a"), engine("a")]).start(lambda step: None)
