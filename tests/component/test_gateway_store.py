"""The gateway's store by itself: its tables, its errors, several gateways on one file, and who sees what."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gateway.store.database import Database, connect
from gateway.store.records import find, records, remove
from gateway.store.shapes import Job, Kept, Page, Talk
from gateway.store.stillness import Stillness
from gateway.store.store import Store
from gateway.store.tables import Event, Item, Record, Table
from mesh.errors import ErrorKind, MeshError
from tests.postgres_server import PostgresServer


def record(name: str, tenant: str = "", *, changed_at: int = 0) -> Record:
    return Record(id=name, kind="response", tenant=tenant, created_at=0, changed_at=changed_at or int(time.time()))


async def add(database: Database, *rows: Table) -> None:
    async with database.writing() as session:
        for row in rows:
            session.add(row)
            await session.flush()


async def test_each_tenant_finds_its_own(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "new" / "store.db"))
    database = await store.open()
    await add(database, record("a", "one"), record("b", "two"), Item(id="i", owner="a", part="input", body=b""))
    async with database.writing() as session:
        assert (await find(session, "response", "a", "one")).id == "a"
        assert [each.id for each in (await records(session, "response", "two", Page()))[0]] == ["b"]
        for kind, tenant in (("response", "two"), ("response", ""), ("conversation", "one")):
            with pytest.raises(MeshError) as caught:
                await remove(session, kind, "a", tenant)
            assert caught.value.kind is ErrorKind.NOT_FOUND
        await remove(session, "response", "a", "one")
        assert await session.scalar(select(func.count()).select_from(Item)) == 0
    await store.close()
    assert (tmp_path / "new" / "store.db").stat().st_mode & 0o077 == 0


async def test_pages_of_a_list(tmp_path: Path) -> None:
    database = await connect(tmp_path / "store.db")
    await add(database, *(record(name) for name in "abcde"))
    async with database.reading() as session:
        pages = (Page(2), Page(2, after="d"), Page(2, after="b"), Page(9, descending=False), Page(2, "d", False))
        found = [await records(session, "response", "", page) for page in pages]
        with pytest.raises(MeshError, match="'after' is 'x'"):
            await records(session, "response", "", Page(after="x"))
    names = ["".join(each.id for each in rows) for rows, _ in found]
    assert (names, [more for _, more in found]) == (["ed", "cb", "a", "abcde", "e"], [True, True, False, False, False])
    await database.close()


async def test_the_tables_are_those_of_the_migrations(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = await connect(tmp_path / "store.db")
    async with database.reading() as session:
        connection = await session.connection()
        differences = await connection.run_sync(
            lambda plain: compare_metadata(MigrationContext.configure(plain), Table.metadata)
        )
    assert differences == []
    await database.close()


async def test_what_was_not_changed_for_long_is_removed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.db"), retention=1)
    database = await store.open()
    days = 86_400
    old = record("old", changed_at=int(time.time()) - days - 60)
    await add(database, old, Event(owner="old", sequence=0, data=b""), record("new", changed_at=int(time.time()) - 60))
    await store.sweep()
    async with database.reading() as session:
        assert [each.id for each in (await records(session, "response", "", Page()))[0]] == ["new"]
        assert await session.scalar(select(func.count()).select_from(Event)) == 0
    await store.close()


async def test_several_gateways_begin_on_one_file_at_once_and_all_their_records_are_there(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stores = [Store(str(tmp_path / "store.db")) for _ in range(4)]
        for store in stores:
            stack.push_async_callback(store.close)
        databases = await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(
            *(add(each, record(f"{place}-{turn}")) for place, each in enumerate(databases) for turn in range(10))
        )
        async with databases[0].reading() as session:
            assert len((await records(session, "response", "", Page(100)))[0]) == 40


async def test_the_same_on_postgresql() -> None:
    with PostgresServer() as server:
        where = server.database("store")
        async with AsyncExitStack() as stack:
            stores = [Store(where, retention=1) for _ in range(3)]
            for store in stores:
                stack.push_async_callback(store.close)
            first, second, _ = await asyncio.gather(*(store.open() for store in stores))
            await asyncio.gather(*(add(first, record(f"r{turn}")) for turn in range(5)))
            await add(first, Item(id="i", owner="r0", part="input", body=b""), record("other", "two"))
            await add(first, record("old", changed_at=5))
            await stores[1].sweep()
            async with second.writing() as session:
                found, more = await records(session, "response", "", Page(4))
                assert (len(found), more) == (4, True)
                await remove(session, "response", "r0", "")
                assert await session.scalar(select(func.count()).select_from(Item)) == 0
            with pytest.raises(MeshError, match="NUL") as caught:
                await (await stores[2].responses()).read("", "a\0b")
            assert caught.value.kind is ErrorKind.INVALID_REQUEST
            await (await stores[2].chats()).keep("", Talk("c", 0, {'a"b': "é"}), "m", b"{}", [])
            found, _ = await (await stores[2].chats()).list("", Page(), None, {'a"b': "é"})
            assert len(found) == 1


async def test_a_store_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").write_bytes(b"no database at all, and long enough to be looked at" * 100)
    wheres = ("none", "nonsense://x", f"{tmp_path}/file/store.db", f"{tmp_path}/other", "postgresql://u@127.0.0.1:1/x")
    for where in wheres:
        store = Store(where)
        with pytest.raises(MeshError) as caught:
            await store.open()
        assert caught.value.kind is ErrorKind.STORE_UNAVAILABLE
        await store.close()


async def test_a_locked_file_and_one_of_a_newer_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = await connect(tmp_path / "store.db", busy=0.1)
    with sqlite3.connect(tmp_path / "store.db") as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(MeshError, match="cannot be used at the moment"):
        await add(database, record("a"))
    assert [getattr(line, "facts", {}).get("why") for line in caplog.records] == [
        f"{tmp_path / 'store.db'}: database is locked"
    ]
    other.execute("ROLLBACK")
    other.close()
    await add(database, record("a"))
    await database.close()
    with pytest.raises(MeshError, match="newer version"):
        await connect(tmp_path / "store.db")


def test_sqlalchemy_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, gateway.lifecycle; sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'alembic')))"
    done = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}, timeout=60)
    assert done.returncode == 0


async def test_work_of_a_gateway_whose_clock_is_behind_is_its_own_until_it_stands_still(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.db"))
    background, database = await store.background(), await store.open()
    job = Job("r", "", b"{}", b"", b"{}")
    await background.begin(job, Kept("r", 0, "m", "queued", {}, b"{}", (), None, ()), b"")
    hour_ago, stillness = time.time() - 3600, Stillness(6)
    for second in range(0, 20, 2):
        async with database.writing() as session:
            (await find(session, "response", "r", "")).alive_at = hour_ago + second
        assert stillness.free(await background.waiting(), 100 + second) == []
    (seen,) = waiting = await background.waiting()
    assert stillness.free(waiting, 123) == []
    assert stillness.free(waiting, 124) == [seen]
    async with database.writing() as session:
        (await find(session, "response", "r", "")).alive_at = hour_ago + 30
    assert await background.claim(seen) is None
    (seen,) = await background.waiting()
    assert getattr(await background.claim(seen), "takeovers", 0) == 1
    assert await background.claim(seen) is None
    await store.close()


async def test_work_that_was_given_back_is_free_at_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.db"))
    background = await store.background()
    job = Job("r", "", b"{}", b"", b"{}")
    await background.begin(job, Kept("r", 0, "m", "queued", {}, b"{}", (), None, ()), b"")
    await background.release(job)
    (seen,) = Stillness(6).free(await background.waiting(), 0)
    assert await background.claim(seen) is not None
    await store.close()
