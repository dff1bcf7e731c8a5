"""The stores of keys, a real etcd and files, by one set of tests; and gateways that share limits through them."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.access.book import Book
from gateway.access.sync import Sync
from mesh.errors import ErrorKind, MeshError
from mesh.keys import EtcdKeys, FileKeys, Key, Store, Usage, new_key
from mesh.registry import EmbeddedRegistry, EtcdClient, EtcdOptions
from tests.component.registry_rig import running
from tests.etcd_server import EtcdServer
from tests.harness import eventually


@asynccontextmanager
async def made(kind: str, folder: Path) -> AsyncGenerator[Store]:
    """A store of either kind."""
    if kind == "file":
        yield FileKeys(folder / "keys.json")
        return
    async with EtcdServer(folder) as server, EtcdClient(server.options()) as client:
        yield EtcdKeys(client)


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.usage: dict[str, Usage] = {}
        self.loaded = False

    def on_key(self, key_id: str, key: Key | None) -> None:
        if key is None:
            del self.keys[key_id]
        else:
            self.keys[key_id] = key

    def on_usage(self, key_id: str, total: Usage) -> None:
        self.usage[key_id] = total

    def on_loaded(self) -> None:
        self.loaded = True


@pytest.mark.parametrize("kind", ["etcd", "file"])
async def test_keys_come_and_go_and_their_usage_adds_up(tmp_path: Path, kind: str) -> None:
    first, text = new_key("first", models=("m",), token_budget=10)
    second, _ = new_key("second")
    heard = Heard()
    async with made(kind, tmp_path) as store:
        await store.create(first)
        async with running(lambda: store.follow(heard)):
            await eventually(lambda: heard.loaded)
            assert heard.keys == {first.id: first}
            await store.create(second)
            await eventually(lambda: heard.keys == {first.id: first, second.id: second})
            # As several gateways do, at the same moment.
            await asyncio.gather(*(store.add_usage(first.id, Usage(1, tokens)) for tokens in range(8)))
            await eventually(lambda: heard.usage.get(first.id) == Usage(8, 28))
            listed = {key.id: usage for key, usage in await store.list()}
            assert listed == {first.id: Usage(8, 28), second.id: Usage()}
            assert await store.revoke(first.id)
            await eventually(lambda: heard.keys == {second.id: second})
            await store.add_usage(first.id, Usage(1, 1))  # of a request that was under way
            assert [key.id for key, _ in await store.list()] == [second.id]
            assert not await store.revoke(first.id)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert text.split("-", 3)[3].encode() not in kept


async def test_what_a_key_used_before_a_gateway_began_does_not_count_against_its_minute() -> None:
    key, text = new_key("old", tokens_per_minute=1000)
    book = Book()
    async with EmbeddedRegistry() as registry, EtcdClient(EtcdOptions.from_url(registry.address)) as client:
        store = EtcdKeys(client)
        await store.create(key)
        await store.add_usage(key.id, Usage(9, 1_000_000))
        for number in range(60):  # so that usage takes longer to list than keys
            await client.put(f"/mesh/v1/usage/{number}".encode(), b'{"more":"%b"}' % (b"-" * 100_000))
        async with running(lambda: store.follow(book)):
            await eventually(lambda: book.loaded and book.authenticate(text).used.tokens == 1_000_000)
        assert book.authenticate(text).headers(time.monotonic())["x-ratelimit-remaining-tokens"] == "1000"


async def test_files_are_for_their_owner_alone_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path, heard = tmp_path / "keys.json", Heard()
    store = FileKeys(path)
    with pytest.raises(MeshError, match="there is no"):
        store.check()
    key, _ = new_key("first")
    await store.create(key)
    await store.add_usage(key.id, Usage(1, 1))
    for each in (path, tmp_path / "keys.json.usage"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    good = path.read_bytes()
    async with running(lambda: store.follow(heard)):
        await eventually(lambda: heard.keys == {key.id: key})
        path.write_text("{")
        with pytest.raises(MeshError, match="is no file of keys"):
            store.check()
        another, _ = new_key("second")
        path.write_bytes(good.replace(key.hash.encode(), another.hash.encode()))
        await eventually(lambda: heard.keys[key.id].hash == another.hash)


async def test_a_record_in_etcd_that_is_no_key_opens_no_door(tmp_path: Path) -> None:
    key, text = new_key("first")
    book = Book()
    async with EmbeddedRegistry() as registry, EtcdClient(EtcdOptions.from_url(registry.address)) as client:
        store = EtcdKeys(client)
        await store.create(key)
        async with running(lambda: store.follow(book)):
            await eventually(lambda: book.loaded and book.authenticate(text))
            await client.put(f"/mesh/v1/keys/{key.id}".encode(), b"{}")
            await eventually(lambda: not book.accounts)
            with pytest.raises(MeshError) as caught:
                book.authenticate(text)
            assert caught.value.kind is ErrorKind.INVALID_API_KEY


@dataclass(eq=False)
class Request:
    """A request under way that has used so many tokens."""

    spent: int = 0


@asynccontextmanager
async def gateways(options: EtcdOptions, count: int) -> AsyncGenerator[list[Book]]:
    """The books of several gateways that share only etcd; their clock stands at 0."""
    books = [Book(lambda: 0.0) for _ in range(count)]
    async with EtcdClient(options) as client, asyncio.TaskGroup() as group:
        syncs = [Sync(book, EtcdKeys(client), client) for book in books]
        tasks = [group.create_task(sync.run()) for sync in syncs]
        await eventually(lambda: all(book.loaded for book in books))
        yield books
        for task in tasks:
            task.cancel()
        for sync in syncs:
            await sync.close()


async def test_gateways_that_share_etcd_hold_the_limits_together(tmp_path: Path) -> None:
    key, _ = new_key("first", requests_per_minute=6, concurrency=2, token_budget=100)
    async with EtcdServer(tmp_path) as server, EtcdClient(server.options()) as client:
        await EtcdKeys(client).create(key)
        async with gateways(server.options(), 2) as books:
            here, there = (book.accounts[key.id] for book in books)
            requests = [Request(), Request()]
            for request in requests:
                here.admit(request, 0.0)
            await eventually(lambda: there.elsewhere == 2)
            with pytest.raises(MeshError, match="has 2"):
                there.admit(Request(), 0.0)
            requests[0].spent = 60
            await eventually(lambda: there.used == Usage(2, 60))
            requests[1].spent = 50
            for request in requests:
                here.release(request, 0.0)
            await eventually(lambda: there.elsewhere == 0 and there.used == Usage(2, 110))
            with pytest.raises(MeshError, match="budget: 110 of 100"):
                there.admit(Request(), 0.0)
            assert there.headers(0.0)["x-ratelimit-remaining-requests"] == "4"
        # Both have ended, and another one starts.
        async with gateways(server.options(), 1) as books:
            assert books[0].accounts[key.id].used == Usage(2, 110)


async def test_the_overrun_is_what_began_before_the_news_and_it_is_paid_back(tmp_path: Path) -> None:
    key, _ = new_key("first", requests_per_minute=10)
    async with EmbeddedRegistry() as registry:
        options = EtcdOptions.from_url(registry.address)
        async with EtcdClient(options) as client:
            await EtcdKeys(client).create(key)
        async with gateways(options, 3) as books:
            accounts = [book.accounts[key.id] for book in books]
            # All at the same moment: the worst case, each lets the whole limit begin.
            for account in accounts:
                for _ in range(10):
                    account.admit(Request(), 0.0)
            for account in accounts:
                await eventually(lambda account=account: account.used.requests == 30)
                # 20 too many: so long does nobody let anything begin.
                with pytest.raises(MeshError) as caught:
                    account.admit(Request(), 0.0)
                assert caught.value.retry_after == pytest.approx(126)


async def test_while_etcd_is_away_each_gateway_goes_on_and_tells_later(tmp_path: Path) -> None:
    key, text = new_key("first", token_budget=100)
    async with EtcdServer(tmp_path) as server, EtcdClient(server.options()) as client:
        await EtcdKeys(client).create(key)
        async with gateways(server.options(timeout=0.5), 1) as books:
            server.kill()
            account = books[0].authenticate(text)
            request = Request(40)
            account.admit(request, 0.0)
            account.release(request, 0.0)
            assert account.used == Usage(1, 40)
            await server.start()

            async def written() -> bool:
                [(_, usage)] = await EtcdKeys(client).list()
                # What failed may have happened, and is written again: at most twice.
                return usage.tokens in (40, 80)

            await eventually(written, within=15)


async def test_what_is_being_written_when_a_gateway_stops_is_written_once(tmp_path: Path) -> None:
    key, _ = new_key("first")
    async with EtcdServer(tmp_path) as server, EtcdClient(server.options()) as client:
        await EtcdKeys(client).create(key)
        async with gateways(server.options(), 1) as books:
            server.freeze()
            account, request = books[0].accounts[key.id], Request(40)
            account.admit(request, 0.0)
            account.release(request, 0.0)
            await eventually(lambda: account.unwritten == Usage())  # it has been given to an etcd that says nothing
            server.thaw()
        assert await EtcdKeys(client).list() == [(key, Usage(1, 40))]


async def test_the_files_tell_people_what_is_in_them(tmp_path: Path) -> None:
    store = FileKeys(tmp_path / "keys.json")
    key, _ = new_key("team a", requests_per_minute=60)
    await store.create(key)
    [found] = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert found == {
        "id": key.id,
        "name": "team a",
        "hash": key.hash,
        "created_at": key.created_at.isoformat().replace("+00:00", "Z"),
        "requests_per_minute": 60,
    }
