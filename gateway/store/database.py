"""The database behind the store: its engine, its transactions, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import Connection, CursorResult, delete
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from gateway.store.outage import outage
from gateway.store.tables import Record
from mesh import database
from mesh.errors import ErrorKind, MeshError

# How long a transaction waits for others that write, and then for a database that says nothing at all, in seconds.
_BUSY_SECONDS: Final = 5.0
_LIMIT_SECONDS: Final = 15.0
# PostgreSQL's lock under which tables are made: one gateway at a time. Any number that nobody else uses.
_MIGRATION_LOCK: Final = 0x6D657368
_MIGRATIONS: Final = Path(__file__).with_name("migrations")


class Database:
    """Transactions on the tables. Made by `connect`."""

    def __init__(self, engine: AsyncEngine, shown: str) -> None:
        """`shown`: where it is, for people; without a password."""
        self._engine = engine
        self._writer = engine.execution_options(writes=True)
        self._shown = shown

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that changes nothing. Raises MeshError (store_unavailable, invalid_request)."""
        async with self._transaction(self._engine) as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that is kept if the block ends well. Raises MeshError (store_unavailable, invalid_request)."""
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
        except DataError as error:  # PostgreSQL's texts hold no NUL, nor more than their columns
            text = f"the store cannot hold what the request says: {database.reason(error)}"
            raise MeshError(ErrorKind.INVALID_REQUEST, text) from error
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> MeshError:
        why = database.reason(error) or f"no answer within {_LIMIT_SECONDS:g} s"
        return outage("store", f"{self._shown}: {why}")


async def connect(where: str | Path, *, busy: float = _BUSY_SECONDS) -> Database:
    """A database with its tables: a file of SQLite, or a URL. `busy`: how long a transaction waits for another one that
    writes. Raises MeshError (store_unavailable)."""
    try:
        connected = Database(*_engine(where, busy))
    except MeshError as error:
        raise outage("store", error.message) from error
    try:
        await connected.migrate()
    except BaseException:
        await connected.close()
        raise
    return connected


def _engine(where: str | Path, busy: float) -> tuple[AsyncEngine, str]:
    """An engine, and where it is for people. Raises MeshError."""
    url, shown = database.database_url(where, sqlite="sqlite+aiosqlite")
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_async_engine(url, connect_args={"timeout": busy})
            database.prepare_sqlite(engine.sync_engine, "NORMAL")
            return engine, shown
        return create_async_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": int(busy)}), shown
    except ImportError as error:
        raise database.missing_package(shown, error) from error


def _upgrade(connection: Connection) -> None:
    database.upgrade(connection, _MIGRATIONS, _MIGRATION_LOCK)
