"""The habits of our SQL databases: where they are, SQLite's settings, and migrations.

For those who keep something in SQL; nothing else imports it, since SQLAlchemy and Alembic come with extras.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError

from mesh.errors import ErrorKind, MeshError

_POSTGRESQL: Final = "postgresql+psycopg"
# It tells of each step of each migration, which is nothing for whoever reads a log.
logging.getLogger("alembic").setLevel(logging.WARNING)


def unavailable(text: str) -> MeshError:
    """A store that cannot be used."""
    return MeshError(ErrorKind.STORE_UNAVAILABLE, text)


def database_url(where: str | Path, *, sqlite: str) -> tuple[URL, str]:
    """The URL with the driver that we use (`sqlite`: which one for SQLite), and what to call it before people, without
    a password. A path is a file of SQLite, which is made, readable for its owner alone. Raises MeshError."""
    if isinstance(where, Path):
        return _file(where, sqlite), str(where)
    try:
        url = make_url(where)
        drivers = {"postgresql": _POSTGRESQL, "postgres": _POSTGRESQL, "sqlite": sqlite}
        return url.set(drivername=drivers[url.get_backend_name()]), url.render_as_string(hide_password=True)
    except (ArgumentError, KeyError):
        raise unavailable("the store must be a file or a URL such as postgresql://user@host/name") from None


def _file(path: Path, driver: str) -> URL:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only where there is none: to close a file takes all locks that this process has on it away from SQLite, and
        # then a connection that closes deletes the log of one that goes on writing to it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise unavailable(f"the store {path} cannot be used: {error.strerror}") from error
    return URL.create(driver, database=str(path))


def missing_package(shown: str, error: ImportError) -> MeshError:
    """For a driver that is not installed."""
    return unavailable(
        f"the store {shown} needs a package that is not installed: {error}; pip install 'psycopg[binary]'"
    )


def reason(error: BaseException) -> str:
    """The first line of what the database says itself; empty where it says nothing."""
    lines = str(getattr(error, "orig", None) or error).splitlines()
    return lines[0][:300] if lines else ""


def prepare_sqlite(engine: Engine, synchronous: Literal["NORMAL", "FULL"]) -> None:
    """Settings of each connection: readers and one writer at a time. With FULL a transaction has reached the disk when
    it is over; with NORMAL the last ones may be missing after a power cut, and none is broken.

    A transaction of an engine with the execution option `writes` takes the writer's place when it begins.
    """

    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where we say
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", f"synchronous = {synchronous}", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", _begin_sqlite)


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that reads first and writes then would fail at once when another writes in between."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upgrade(connection: Connection, migrations: Path, lock: int) -> None:
    """Bring the tables up to date, within the connection's transaction, and so one process after the other; `lock`:
    PostgreSQL's advisory lock for it. Raises MeshError if a newer version wrote them."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise unavailable(f"the store was written by a newer version: {error}") from error
