"""The database behind the store: its engine, its transactions, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import URL, Connection, CursorResult, delete, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from gateway.store.tables import Record
from mesh.errors import ErrorKind, MeshError

# How long a transaction waits for others that write, and then for a database that says nothing at all, in seconds.
_BUSY_SECONDS: Final = 5.0
_LIMIT_SECONDS: Final = 15.0
# PostgreSQL's lock under which tables are made: one gateway at a time. Any number that nobody else uses.
_MIGRATION_LOCK: Final = 0x6D657368
_MIGRATIONS: Final = Path(__file__).with_name("migrations")
# It tells of each step of each migration, which is nothing for whoever reads a gateway's log.
logging.getLogger("alembic").setLevel(logging.WARNING)


class Database:
    """Transactions on the tables. Made by `connect`."""

    def __init__(self, engine: AsyncEngine, shown: str) -> None:
        """`shown`: where it is, for people; without a password."""
        self._engine = engine
        self._writer = engine.execution_options(writes=True)
        self._shown = shown

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that changes nothing. Raises MeshError (store_unavailable)."""
        async with self._transaction(self._engine) as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that is kept if the block ends well. Raises MeshError (store_unavailable)."""
        async with self._transaction(self._writer) as session:
            yield session
            await session.commit()

    async def migrate(self) -> None:
        """Bring the tables up to date."""
        try:
            async with asyncio.timeout(_LIMIT_SECONDS), self._writer.begin() as connection:
                await connection.run_sync(_upgrade)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def sweep(self, seconds: float) -> int:
        """Remove records that were last changed so many seconds ago; returns how many. Not files, which have contents:
        see gateway.batches.sweep."""
        async with self.writing() as session:
            old = delete(Record).where(Record.changed_at < time.time() - seconds, Record.kind != "file")
            return cast("CursorResult[Any]", await session.execute(old)).rowcount

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncGenerator[AsyncSession]:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS), AsyncSession(engine, expire_on_commit=False) as session:
                yield session
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> MeshError:
        reason = str(getattr(error, "orig", None) or error) or f"no answer within {_LIMIT_SECONDS:g} s"
        text = f"the store {self._shown} cannot be used: {reason.splitlines()[0][:300]}"
        return MeshError(ErrorKind.STORE_UNAVAILABLE, text)


async def connect(where: str | Path, *, busy: float = _BUSY_SECONDS) -> Database:
    """A database with its tables: a file of SQLite, or a URL. `busy`: how long a transaction waits for another one that
    writes. Raises MeshError (store_unavailable)."""
    url = _url(where) if isinstance(where, str) else _file(where)
    shown = str(where) if isinstance(where, Path) else url.render_as_string(hide_password=True)
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_async_engine(url, connect_args={"timeout": busy})
            event.listen(engine.sync_engine, "connect", _on_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        else:
            engine = create_async_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": int(busy)})
    except ImportError as error:
        text = f"the store {shown} needs a package that is not installed: {error}; pip install 'psycopg[binary]'"
        raise MeshError(ErrorKind.STORE_UNAVAILABLE, text) from error
    database = Database(engine, shown)
    try:
        await database.migrate()
    except BaseException:
        await database.close()
        raise
    return database


def _url(text: str) -> URL:
    """A URL with the driver that we use. Raises MeshError."""
    try:
        url = make_url(text)
        driver = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite+aiosqlite"}
        return url.set(drivername=driver[url.get_backend_name()])
    except (ArgumentError, KeyError):
        text = "the store must be a file or a URL such as postgresql://user@host/name"
        raise MeshError(ErrorKind.STORE_UNAVAILABLE, text) from None


def _file(path: Path) -> URL:
    """The URL of a file, readable for its owner alone. Raises MeshError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass  # to open it and close it again would drop the locks that SQLite has on it in this process
    except OSError as error:
        text = f"the store {path} cannot be used: {error.strerror}"
        raise MeshError(ErrorKind.STORE_UNAVAILABLE, text) from error
    return URL.create("sqlite+aiosqlite", database=str(path))


def _on_sqlite(connection: Any, _: object) -> None:
    """Settings of each connection. Readers and one writer at a time, who does not wait for each write to reach the
    disk: after a power cut the last records may be missing, none is broken."""
    connection.isolation_level = None  # transactions begin where we say
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that reads first and writes then would fail at once when another writes in between."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    """Within one transaction, and so one gateway after the other."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        text = f"the store was written by a newer version of this gateway: {error}"
        raise MeshError(ErrorKind.STORE_UNAVAILABLE, text) from error
