"""The announcer against a real etcd: what etcd itself lists, whatever is done to key, lease and process."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mesh.errors import MeshError
from mesh.registry import Announcer, EtcdClient, encode, key_for
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING
from tests.component.registry_rig import announced, key_value, make_record, records
from tests.etcd_server import EtcdServer, etcdctl_keys
from tests.harness import eventually


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncGenerator[EtcdServer]:
    async with EtcdServer(tmp_path, arguments=["--unsafe-no-fsync"]) as server:
        yield server


async def test_the_record_is_there_changes_at_once_and_goes_at_the_end(etcd: EtcdServer) -> None:
    record = make_record()
    async with announced(etcd.options(), record, ttl=30) as announcer:
        assert announcer.registered
        assert announcer.last_error is None
        (key, value), *others = etcdctl_keys(etcd.url, "/mesh/").items()
        assert (key, others) == ("/mesh/v1/workers/w1", [])
        assert json.loads(value)["address"] == record.address

        async def draining() -> bool:
            return (await records(etcd.options()))["w1"].state == WORKER_STATE_DRAINING

        async def slots_changed() -> bool:
            return (await records(etcd.options()))["w1"].slots == 99

        record.state = WORKER_STATE_DRAINING
        announcer.update(record)
        # Far less than the third of the TTL after which it would be renewed anyway.
        await eventually(draining, within=3)
        record.slots = 99
        announcer.update(record)
        await eventually(slots_changed, within=3)
        with pytest.raises(MeshError, match="worker_id"):
            announcer.update(make_record("another"))
    assert not announcer.registered
    assert await records(etcd.options()) == {}


async def test_it_stays_while_the_main_loop_is_blocked(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), ttl=2):
        before = await key_value(etcd.options())
        time.sleep(5)  # noqa: ASYNC251 - the subject of the test: nothing on this loop runs for two TTLs
        after = await key_value(etcd.options())
    assert after is not None
    # The same creation: it was not gone meanwhile.
    assert (after.create_revision, after.lease) == (before.create_revision, before.lease)


async def test_a_key_deleted_by_hand_comes_back(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), ttl=3):
        etcd.ctl("del", key_for("w1"))
        await eventually(lambda: _listed(etcd), within=5)


async def test_a_value_overwritten_by_hand_is_put_right(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), ttl=3):
        etcd.ctl("put", key_for("w1"), "garbage")

        async def right() -> bool:
            found = await key_value(etcd.options())
            return found.value != b"garbage" and found.lease != 0

        await eventually(right, within=5)


async def test_a_lease_revoked_by_hand_is_replaced(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), ttl=3):
        old = (await key_value(etcd.options())).lease
        etcd.ctl("lease", "revoke", f"{old:x}")
        await eventually(lambda: _listed(etcd), within=5)
        assert (await key_value(etcd.options())).lease != old


async def test_a_restarted_worker_takes_over_and_outlives_the_old_lease(etcd: EtcdServer) -> None:
    async with EtcdClient(etcd.options()) as client:
        old = make_record(incarnation="before", started=time.time() - 60)
        lease = await client.grant(2)
        await client.put(key_for("w1").encode(), encode(old), lease=lease)
        async with announced(etcd.options(), make_record(incarnation="now"), ttl=30):

            async def old_lease_has_ended() -> bool:
                return (await client.time_to_live(lease)).ttl == -1

            await eventually(old_lease_has_ended, within=10)
            assert (await records(etcd.options()))["w1"].incarnation == "now"


async def test_of_two_processes_with_one_id_the_later_has_the_key(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), make_record(incarnation="early", started=1000), ttl=3) as early:
        async with announced(etcd.options(), make_record(incarnation="late", started=2000), ttl=3) as late:
            await eventually(lambda: not early.registered and early.last_error, within=5)
            assert "another process" in (early.last_error or "")
            assert (await records(etcd.options()))["w1"].incarnation == "late"
            assert late.registered
        # The later one has gone: the id is free again.
        await eventually(lambda: early.registered, within=5)
        assert (await records(etcd.options()))["w1"].incarnation == "early"


async def test_it_waits_for_an_etcd_that_comes_later(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path, arguments=["--unsafe-no-fsync"])
    announcer = Announcer(etcd.options(), make_record(), ttl=3)
    announcer.start()
    try:
        await eventually(lambda: announcer.last_error, within=5)
        assert not announcer.registered
        async with etcd:
            await eventually(lambda: _listed(etcd), within=10)
            await eventually(lambda: announcer.registered and announcer.last_error is None, within=3)
    finally:
        announcer.stop()


async def test_stop_does_not_wait_for_an_etcd_that_is_gone(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), ttl=3) as announcer:
        etcd.freeze()
        before = time.monotonic()
        announcer.stop()
        assert time.monotonic() - before < 4
        assert not announcer.registered
    announcer.stop()  # once more is fine, as is stopping one that was never started
    Announcer(etcd.options(), make_record()).stop()


async def _listed(etcd: EtcdServer) -> bool:
    return "w1" in await records(etcd.options())
