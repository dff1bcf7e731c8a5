"""The embedded registry as etcd's own command line tool and our own processes see it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mesh.errors import MeshError
from mesh.registry import EmbeddedRegistry, EtcdClient, EtcdError, EtcdOptions, prefix_end
from tests.component.registry_rig import announced, mirrored
from tests.etcd_server import etcdctl, find_binary
from tests.harness import eventually


@pytest.fixture
async def registry() -> AsyncGenerator[EmbeddedRegistry]:
    async with EmbeddedRegistry() as embedded:
        yield embedded


async def ctl(registry: EmbeddedRegistry, *arguments: str, given: str = "") -> str:
    """etcdctl, while the registry goes on beside it on this loop."""
    return await asyncio.to_thread(etcdctl, registry.address, *arguments, given=given)


async def test_etcdctl_reads_and_writes(registry: EmbeddedRegistry) -> None:
    assert await ctl(registry, "put", "/a/1", "one") == "OK\n"
    await ctl(registry, "put", "/a/2", "two")
    assert await ctl(registry, "get", "--prefix", "/a/") == "/a/1\none\n/a/2\ntwo\n"
    assert await ctl(registry, "get", "--prefix", "/a/", "--keys-only", "--order=DESCEND") == "/a/2\n\n/a/1\n\n"
    assert (await ctl(registry, "get", "--rev=2", "--prefix", "/a/")) == "/a/1\none\n"
    assert await ctl(registry, "del", "--prefix", "/a/") == "2\n"
    taken = 'create("/lock") = "0"\n\nput /lock mine\n\nget /lock\n\n'
    assert "SUCCESS" in await ctl(registry, "txn", "--interactive", given=taken)
    assert "mine" in await ctl(registry, "txn", "--interactive", given=taken)
    assert "compacted revision 3" in await ctl(registry, "compaction", "3")
    with pytest.raises(AssertionError, match="compacted"):
        await ctl(registry, "get", "--rev=2", "/a/1")


async def test_etcdctl_handles_leases(registry: EmbeddedRegistry) -> None:
    granted = await ctl(registry, "lease", "grant", "60")
    lease = granted.split()[1]
    assert granted == f"lease {lease} granted with TTL(60s)\n"
    await ctl(registry, "put", "/leased", "x", f"--lease={lease}")
    left = await ctl(registry, "lease", "timetolive", lease, "--keys")
    assert "granted with TTL(60s)" in left
    assert "/leased" in left
    assert lease in await ctl(registry, "lease", "list")
    assert "with TTL(60)" in await ctl(registry, "lease", "keep-alive", "--once", lease)
    assert "revoked" in await ctl(registry, "lease", "revoke", lease)
    assert await ctl(registry, "get", "/leased") == ""


async def test_etcdctl_asks_for_health(registry: EmbeddedRegistry) -> None:
    assert "embedded" in await ctl(registry, "endpoint", "status")
    assert "unhealthy" not in await ctl(registry, "endpoint", "health")
    assert registry.address in await ctl(registry, "member", "list")


async def test_etcdctl_watches(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    output = tmp_path / "watch"
    await ctl(registry, "put", "/a/before", "old")
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [str(find_binary("etcdctl")), f"--endpoints={registry.address}", "watch", "--prefix", "/a/", "--rev=1"],
            stdout=sink,
        )
    try:
        await eventually(lambda: "old" in output.read_text(), within=5)
        await ctl(registry, "put", "/a/1", "new")
        await ctl(registry, "put", "/b/1", "elsewhere")
        await ctl(registry, "del", "/a/1")
        await eventually(lambda: output.read_text().endswith("DELETE\n/a/1\n\n"), within=5)
        assert output.read_text() == "PUT\n/a/before\nold\nPUT\n/a/1\nnew\nDELETE\n/a/1\n\n"
    finally:
        process.kill()
        process.wait()


async def test_etcdctl_locks(registry: EmbeddedRegistry) -> None:
    """Sessions, keep-alive streams and waiting on other keys: what etcd's concurrency library needs."""
    assert await ctl(registry, "lock", "/lock", "echo", "held") == "held\n"


async def test_a_key_goes_with_its_lease(registry: EmbeddedRegistry) -> None:
    options = EtcdOptions.from_url(registry.address)
    async with EtcdClient(options) as client, client.watch(b"/", prefix_end(b"/")) as changes:
        lease = await client.grant(2)
        await client.put(b"/k", b"v", lease=lease)
        await anext(changes)
        start = time.monotonic()
        async with asyncio.timeout(6):
            (event,) = await anext(changes)
        assert (event.kv.key, event.kv.value) == (b"/k", b"")
        assert time.monotonic() - start > 1
        assert await client.renew(lease) == 0
        with pytest.raises(EtcdError, match="lease not found"):
            await client.put(b"/k", b"v", lease=lease)


async def test_leases_survive_a_standstill_of_the_process(registry: EmbeddedRegistry) -> None:
    options = EtcdOptions.from_url(registry.address)
    async with EtcdClient(options) as client:
        lease = await client.grant(2)
        await client.put(b"/k", b"v", lease=lease)
        await asyncio.sleep(0.1)  # the clockwork of the leases has run before
        time.sleep(4)  # noqa: ASYNC251 - the subject of the test: the registry's loop stands still for two TTLs
        await asyncio.sleep(0.1)
        assert await client.renew(lease) == 2
        assert (await client.range(b"/k")).count == 1


async def test_a_thousand_workers_in_the_embedded_registry(registry: EmbeddedRegistry) -> None:
    options = EtcdOptions.from_url(registry.address)
    async with mirrored(options) as seen, EtcdClient(options) as client:
        await eventually(lambda: seen.synced, within=5)
        leases = await asyncio.gather(*(client.grant(30) for _ in range(1000)))
        keys = [b"/mesh/v1/workers/w%d" % number for number in range(1000)]
        await asyncio.gather(
            *(client.put(key, bytes(700), lease=lease) for key, lease in zip(keys, leases, strict=True))
        )
        await eventually(lambda: len(seen.workers) == 1000, within=10)
        await asyncio.gather(*(client.revoke(lease) for lease in leases))
        await eventually(lambda: not seen.workers, within=10)


async def test_a_large_listing_and_a_large_transaction_get_through(registry: EmbeddedRegistry) -> None:
    async with EtcdClient(EtcdOptions.from_url(registry.address)) as client:
        for number in range(8):
            await client.put(b"/%d" % number, bytes(1_000_000))
        listing = await client.range(b"/", prefix_end(b"/"))
        assert sum(len(kv.value) for kv in listing.kvs) == 8_000_000
        with pytest.raises(EtcdError, match="too large"):
            await client.put(b"/k", bytes(1_600_000))


async def test_a_taken_port_is_an_error(registry: EmbeddedRegistry) -> None:
    port = int(registry.address.rpartition(":")[2])
    other = EmbeddedRegistry()
    with pytest.raises(MeshError, match=str(port)):
        await other.start(port=port)


async def test_it_stops_under_use_and_starts_again() -> None:
    registry = EmbeddedRegistry()
    port = await registry.start()
    options = EtcdOptions.from_url(registry.address, timeout=1.0)
    async with announced(options, ttl=60), mirrored(options) as seen:
        await eventually(lambda: seen.workers == {"w1"}, within=5)
        before = time.monotonic()
        await registry.stop()
        assert time.monotonic() - before < 3
        await eventually(lambda: not seen.synced, within=5)
        assert await registry.start(port=port) == port
        await eventually(lambda: seen.synced, within=5)
    await registry.stop()


async def test_status_is_json_for_tools(registry: EmbeddedRegistry) -> None:
    (member,) = json.loads(await ctl(registry, "endpoint", "status", "-w", "json"))
    assert member["Status"]["header"]["revision"] == 1


async def _watch(client: EtcdClient, standing: asyncio.Event) -> None:
    async with client.watch(b"/") as changes:
        standing.set()
        await anext(changes)


@pytest.mark.parametrize("turns", range(8))
async def test_a_stopped_registry_leaves_no_call_behind(turns: int) -> None:
    registry = EmbeddedRegistry()
    await registry.start()
    async with EtcdClient(EtcdOptions.from_url(registry.address)) as client:
        standing = asyncio.Event()
        watched = asyncio.create_task(_watch(client, standing))
        await standing.wait()
        watched.cancel()
        for _ in range(turns):  # of the loop, between the end of the watch and that of the registry
            await asyncio.sleep(0)
        await registry.stop()
        left = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in left if "Watch" in name or name == "rpc_task"}
