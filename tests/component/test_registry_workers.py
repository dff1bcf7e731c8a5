"""Workers as a gateway sees them, and the raw watch below."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from mesh.registry import EmbeddedRegistry, EtcdClient, EtcdError, EtcdOptions, encode, key_for, mirror, watch_workers
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING, WorkerRecord
from tests.component.registry_rig import make_record, running
from tests.etcd_server import EtcdServer
from tests.harness import eventually


@asynccontextmanager
async def embedded() -> AsyncGenerator[EtcdClient]:
    """A client of a registry of its own."""
    async with EmbeddedRegistry() as registry, EtcdClient(EtcdOptions.from_url(registry.address)) as client:
        yield client


async def test_workers_come_change_and_go() -> None:
    seen: list[tuple[str, WorkerRecord | None]] = []
    record = make_record("w1")
    key = key_for("w1").encode()

    def on_worker(worker_id: str, found: WorkerRecord | None) -> None:
        seen.append((worker_id, found))

    async with embedded() as client:
        await client.put(key, encode(record))
        async with running(lambda: watch_workers(client, on_worker)):
            await eventually(lambda: seen == [("w1", record)])
            draining = WorkerRecord()
            draining.CopyFrom(record)
            draining.state = WORKER_STATE_DRAINING
            await client.put(key, encode(draining))
            await client.delete_range(key)
            await eventually(lambda: len(seen) == 3)
            assert seen[1:] == [("w1", draining), ("w1", None)]


async def test_what_is_no_record_is_skipped_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    seen: dict[str, WorkerRecord | None] = {}
    states: list[bool] = []
    good = make_record("good")
    async with embedded() as client:
        await client.put(key_for("junk").encode(), b"\xff{")
        await client.put(key_for("liar").encode(), encode(make_record("someone-else")))
        await client.put(b"/mesh/v1/workers/\xfe\xff", b"x")
        async with running(lambda: watch_workers(client, seen.__setitem__, on_state=states.append)):
            await eventually(lambda: states == [True])
            await client.put(key_for("good").encode(), encode(good))
            # A newer version's fields, and a value that its worker later spoils: what was known stays.
            newer = {**json.loads(encode(make_record("newer"))), "of_tomorrow": 1}
            await client.put(key_for("newer").encode(), json.dumps(newer).encode())
            await eventually(lambda: seen.keys() == {"good", "newer"})
            await client.put(key_for("good").encode(), b"spoilt")
            await client.delete_range(key_for("junk").encode())
            await client.put(key_for("last").encode(), encode(make_record("last")))
            await eventually(lambda: "last" in seen)
    assert seen["good"] == good
    assert "junk" not in seen
    skipped = [entry for entry in caplog.records if entry.getMessage() == "skipped a key of the registry"]
    assert len(skipped) == 4


async def test_what_a_callback_raises_ends_the_mirror() -> None:
    def raising(key: str, value: bytes | None) -> None:
        raise ZeroDivisionError

    async with embedded() as client:
        await client.put(b"/k", b"v")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(mirror(client, "/", raising), 5)


async def test_a_watch_from_a_compacted_revision_says_so(tmp_path: Path) -> None:
    async with EtcdServer(tmp_path, arguments=["--unsafe-no-fsync"]) as etcd, EtcdClient(etcd.options()) as client:
        for _ in range(5):
            await client.put(b"/k", b"v")
        await client.compact(5)
        for start, compacted in ((2, True), (5, False)):
            async with client.watch(b"/k", start_revision=start) as changes:
                if compacted:
                    with pytest.raises(EtcdError, match="compacted") as caught:
                        await anext(changes)
                    assert caught.value.code is grpc.StatusCode.OUT_OF_RANGE
                else:
                    assert [event.kv.mod_revision for event in await anext(changes)] == [5, 6]


async def test_a_watch_ends_when_its_owner_is_cancelled() -> None:
    async with embedded() as client:

        async def follow() -> None:
            async with client.watch(b"/k") as changes:
                async for _ in changes:
                    pass

        task = asyncio.create_task(follow())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Cancelled, not broken: another one of the same client works.
        async with client.watch(b"/k") as changes:
            await client.put(b"/k", b"v")
            assert len(await anext(changes)) == 1
