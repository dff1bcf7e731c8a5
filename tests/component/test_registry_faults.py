"""What happens to etcd and to the way there: announcer and mirror get over it, without anybody's help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from benchmarks.systems.tcp_proxy import TcpProxy
from mesh.registry import EmbeddedRegistry, EtcdClient, EtcdOptions, encode, key_for
from mesh.registry.mirror import mirror
from tests.component.registry_rig import Mirrored, announced, make_record, mirrored, records
from tests.etcd_server import EtcdServer
from tests.harness import eventually, free_port

TTL = 2


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncGenerator[EtcdServer]:
    async with EtcdServer(tmp_path, arguments=["--unsafe-no-fsync"]) as server:
        yield server


async def put(options: EtcdOptions, worker_id: str) -> None:
    async with EtcdClient(options) as client:
        await client.put(key_for(worker_id).encode(), encode(make_record(worker_id)))


async def delete(options: EtcdOptions, worker_id: str) -> None:
    async with EtcdClient(options) as client:
        assert await client.delete_range(key_for(worker_id).encode()) == 1


async def outlast(etcd: EtcdServer, seconds: int) -> None:
    """Wait until a lease of so many seconds, made now, has ended by etcd's own clock."""
    async with EtcdClient(etcd.options()) as client:
        lease = await client.grant(seconds)

        async def ended() -> bool:
            return (await client.time_to_live(lease)).ttl == -1

        await eventually(ended, within=seconds + 10)


async def ended(etcd: EtcdServer) -> bool:
    """The worker's lease has ended: etcd does not list it."""
    return "w1" not in await records(etcd.options())


async def both_work(etcd: EtcdServer, seen: Mirrored, witness: str, within: float = 8) -> None:
    """The worker is in etcd, and a change made beside the mirror arrives there."""

    async def listed() -> bool:
        return "w1" in await records(etcd.options())

    await eventually(listed, within)
    await put(etcd.options(), witness)
    await eventually(lambda: {"w1", witness} <= seen.workers, within)


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "empty"])
async def test_etcd_is_killed_and_comes_back(etcd: EtcdServer, empty: bool) -> None:
    async with announced(etcd.options(), ttl=TTL), mirrored(etcd.options()) as seen:
        await put(etcd.options(), "stays")
        await both_work(etcd, seen, "before")
        etcd.kill()
        await eventually(lambda: not seen.synced, within=5)
        assert "w1" in seen.workers, "a lost etcd is no news of the workers"
        await etcd.start(empty=empty)
        await both_work(etcd, seen, "after")
        await eventually(lambda: ("stays" in seen.workers) != empty, within=5)
        # Not only for the moment: the lease is renewed again.
        await outlast(etcd, TTL)
        assert "w1" in await records(etcd.options())


async def test_an_emptied_etcd_has_the_worker_again_long_before_its_next_renewal(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), ttl=60):
        etcd.kill()
        await etcd.start(empty=True)

        async def listed() -> bool:
            return "w1" in await records(etcd.options())

        await eventually(listed, within=8)


async def test_etcd_is_frozen_for_longer_than_the_ttl(etcd: EtcdServer) -> None:
    async with announced(etcd.options(), ttl=TTL) as announcer, mirrored(etcd.options()) as seen:
        await both_work(etcd, seen, "before")
        etcd.freeze()
        await eventually(lambda: not seen.synced, within=5)
        await eventually(lambda: not announcer.registered, within=TTL + 3)
        etcd.thaw()
        await both_work(etcd, seen, "after")
        await eventually(lambda: announcer.registered, within=5)
        await outlast(etcd, TTL)
        assert "w1" in await records(etcd.options())


@pytest.mark.parametrize("forget", [False, True], ids=["healed", "old connections dead"])
async def test_cut_off_while_etcd_runs_on_and_compacts(etcd: EtcdServer, forget: bool) -> None:
    async with TcpProxy(etcd.port) as proxy:
        options = EtcdOptions.from_url(proxy.url, timeout=1.0)
        async with announced(options, ttl=TTL):
            await put(etcd.options(), "goes")
            async with mirrored(options) as seen:
                await both_work(etcd, seen, "before")
                proxy.blackhole()
                await delete(etcd.options(), "goes")
                await put(etcd.options(), "meanwhile")
                await outlast(etcd, TTL)
                await eventually(lambda: ended(etcd))
                async with EtcdClient(etcd.options()) as client:
                    await client.compact((await client.status()).header.revision)
                proxy.heal(forget=forget)
                await both_work(etcd, seen, "after")
                assert seen.workers == {"w1", "before", "meanwhile", "after"}


async def test_connections_that_break_again_and_again_lose_no_change(etcd: EtcdServer) -> None:
    async with TcpProxy(etcd.port) as proxy, mirrored(EtcdOptions.from_url(proxy.url)) as seen:
        for number in range(20):
            await proxy.cut()
            await put(etcd.options(), f"w{number}")
            if number:
                await delete(etcd.options(), f"w{number - 1}")
        await eventually(lambda: seen.workers == {"w19"}, within=8)


async def test_after_a_break_only_differences_are_reported(etcd: EtcdServer) -> None:
    for worker in ("same", "goes", "changes", "rewritten"):
        await put(etcd.options(), worker)
    async with TcpProxy(etcd.port) as proxy, mirrored(EtcdOptions.from_url(proxy.url, timeout=1.0)) as seen:
        await eventually(lambda: seen.synced, within=8)
        seen.changes.clear()
        same = (await records(etcd.options()))["rewritten"]
        proxy.blackhole()
        await eventually(lambda: not seen.synced, within=5)
        async with EtcdClient(etcd.options()) as client:
            await client.put(key_for("rewritten").encode(), encode(same))
            await client.put(key_for("changes").encode(), b"changed")
        await delete(etcd.options(), "goes")
        proxy.heal()
        await eventually(lambda: seen.synced, within=8)
        assert sorted(seen.changes) == [(key_for("changes"), b"changed"), (key_for("goes"), None)]


async def test_a_value_written_again_is_no_news(etcd: EtcdServer) -> None:
    async with mirrored(etcd.options()) as seen:
        record = encode(make_record("w1"))
        async with EtcdClient(etcd.options()) as client:
            for _ in range(3):
                await client.put(key_for("w1").encode(), record)
            await client.put(key_for("w2").encode(), record)
        await eventually(lambda: seen.workers == {"w1", "w2"}, within=5)
        assert len(seen.changes) == 2


async def test_the_other_endpoint_takes_over(etcd: EtcdServer) -> None:
    async with TcpProxy(etcd.port) as first, TcpProxy(etcd.port) as second:
        nobody = f"127.0.0.1:{free_port()}"
        options = EtcdOptions.from_url(f"{nobody},127.0.0.1:{first.port},127.0.0.1:{second.port}", timeout=1.0)
        async with announced(options, ttl=TTL), mirrored(options) as seen, EtcdClient(options) as client:
            await both_work(etcd, seen, "before")
            for cut in (first, second):
                cut.blackhole()
                await client.put(b"/elsewhere", b"x")
                await both_work(etcd, seen, f"without {cut.port}")
                await outlast(etcd, TTL)
                assert "w1" in await records(etcd.options())
                cut.heal()


async def test_a_thousand_workers(etcd: EtcdServer) -> None:
    async with EtcdClient(etcd.options(timeout=10)) as client:
        for number in range(1000):
            await client.put(key_for(f"w{number}").encode(), encode(make_record(f"w{number}")))
    async with TcpProxy(etcd.port) as proxy, mirrored(EtcdOptions.from_url(proxy.url)) as seen:
        await eventually(lambda: len(seen.workers) == 1000, within=5)
        await proxy.cut()
        await eventually(lambda: seen.states.count(True) == 2, within=5)
        assert len(seen.changes) == 1000, "a second listing of what is known is no news"


async def test_an_embedded_registry_that_restarts_is_filled_again() -> None:
    port = free_port()
    options = EtcdOptions.from_url(f"127.0.0.1:{port}", timeout=1.0)
    registry = EmbeddedRegistry()
    await registry.start(port=port)
    async with announced(options, ttl=60) as announcer, mirrored(options) as seen:
        await eventually(lambda: seen.workers == {"w1"}, within=5)
        await registry.stop()
        registry = EmbeddedRegistry()
        await registry.start(port=port)
        await eventually(lambda: registry.store.get(key_for("w1").encode()), within=8)
        await eventually(lambda: seen.synced and seen.workers == {"w1"}, within=8)
        assert announcer.registered
    await registry.stop()


async def test_a_mirror_ends_when_it_is_cancelled_whatever_its_calls_are_at() -> None:
    """gRPC catches a cancellation that comes when a call fails by itself; at one of these moments it does."""
    options = EtcdOptions.from_url(f"127.0.0.1:{free_port()}")  # where nobody listens
    for moment in range(300):
        async with EtcdClient(options) as client:
            task = asyncio.create_task(mirror(client, "/mesh/", lambda _key, _value: None))
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5)
            assert done, moment
