"""The database behind the store: its connections, its transactions, and what becomes of its errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from mesh import database
from mesh.errors import MeshError
from webui.records import StoreUnavailable

# How long a transaction waits for another one that writes, in seconds.
BUSY_SECONDS: Final = 5.0
# PostgreSQL ends a statement that takes longer, in milliseconds: large enough for counting millions of votes.
_STATEMENT_MILLISECONDS: Final = 120_000
# PostgreSQL's lock under which tables are made: one process at a time. Any number that nobody else uses.
_MIGRATION_LOCK: Final = 0x6172656E
_MIGRATIONS: Final = Path(__file__).with_name("migrations")


class Database:
    """Transactions on the tables, from any thread. Made by `connect`."""

    def __init__(self, engine: Engine, shown: str) -> None:
        """`shown`: where it is, for people; without a password."""
        self._engine = engine
        self._writer = engine.execution_options(writes=True)
        self._shown = shown

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A transaction that changes nothing. Raises StoreUnavailable."""
        with self._errors(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session]:
        """A transaction that is on the disk when the block has ended well, or has not been. Raises StoreUnavailable."""
        with self._errors(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self) -> None:
        """Bring the tables up to date. Raises StoreUnavailable."""
        with self._errors(), self._writer.begin() as connection:
            database.upgrade(connection, _MIGRATIONS, _MIGRATION_LOCK)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            raise StoreUnavailable(f"the store {self._shown} cannot be used: {database.reason(error)}") from error
        except MeshError as error:
            raise StoreUnavailable(error.message) from error


def connect(where: str | Path, *, busy: float = BUSY_SECONDS) -> Database:
    """A database with its tables: a file of SQLite, or a URL. Raises StoreUnavailable."""
    at = str(where) if "://" in str(where) else Path(where).expanduser()
    try:
        url, shown = database.database_url(at, sqlite="sqlite")
    except MeshError as error:
        raise StoreUnavailable(error.message) from error
    try:
        engine = _engine(url, busy)
    except ImportError as error:
        raise StoreUnavailable(database.missing_package(shown, error).message) from error
    connected = Database(engine, shown)
    try:
        connected.migrate()
    except BaseException:
        connected.close()
        raise
    return connected


def _engine(url: URL, busy: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": busy})
        database.prepare_sqlite(engine, "FULL")
        return engine
    options = f"-c statement_timeout={_STATEMENT_MILLISECONDS} -c lock_timeout={int(busy * 1000)}"
    arguments: dict[str, Any] = {"connect_timeout": max(1, int(busy)), "options": options}
    return create_engine(url, pool_pre_ping=True, connect_args=arguments)
