"""The database behind the store: its connections, its transactions, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

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
            _upgrade(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
            raise StoreUnavailable(f"the store {self._shown} cannot be used: {reason}") from error


def connect(where: str | Path, *, busy: float = BUSY_SECONDS) -> Database:
    """A database with its tables: a file of SQLite, or a URL. Raises StoreUnavailable."""
    url = _url(where) if "://" in str(where) else _file(Path(where).expanduser())
    shown = url.render_as_string(hide_password=True) if "://" in str(where) else str(where)
    try:
        engine = _engine(url, busy)
    except ImportError as error:
        text = f"the store {shown} needs a package that is not installed: {error}; pip install 'psycopg[binary]'"
        raise StoreUnavailable(text) from error
    database = Database(engine, shown)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return database


def _engine(url: URL, busy: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": busy})
        event.listen(engine, "connect", _on_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = f"-c statement_timeout={_STATEMENT_MILLISECONDS} -c lock_timeout={int(busy * 1000)}"
    arguments: dict[str, Any] = {"connect_timeout": max(1, int(busy)), "options": options}
    return create_engine(url, pool_pre_ping=True, connect_args=arguments)


def _url(where: str | Path) -> URL:
    """A URL with the driver that we use. Raises StoreUnavailable."""
    drivers = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}
    try:
        url = make_url(str(where))
        return url.set(drivername=drivers[url.get_backend_name()])
    except (ArgumentError, KeyError):
        raise StoreUnavailable("the store must be a file or a URL such as postgresql://user@host/name") from None


def _file(path: Path) -> URL:
    """The URL of a file, readable for its owner alone. Raises StoreUnavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only where there is none: to close a file takes all locks that this process has on it away from SQLite, and
        # then a connection that closes deletes the log of one that goes on writing to it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"the store {path} cannot be used: {error.strerror}") from error
    return URL.create("sqlite", database=str(path))


def _on_sqlite(connection: Any, _: object) -> None:
    """Settings of each connection. With `synchronous = FULL` a transaction has reached the disk when it is over."""
    connection.isolation_level = None  # transactions begin where we say
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that reads first and writes then would fail at once when another writes in between."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    """Within one transaction, and so one process after the other."""
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
        raise StoreUnavailable(f"the store was written by a newer version: {error}") from error
