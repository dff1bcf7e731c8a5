"""A PostgreSQL of its own for tests, which are skipped where its programs are not installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
import pytest

from tests.harness import wait_until

# Debian keeps the server's programs out of PATH.
_PLACES = [*os.environ.get("PATH", "").split(os.pathsep), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]


class PostgresServer:
    """One server on a socket in a folder of its own; nothing is kept."""

    def __enter__(self) -> Self:
        initdb, postgres = _find("initdb"), _find("postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        # PostgreSQL does not run as root, as which tests do in containers.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        options = ["--auth=trust", "--username=arena", "--encoding=UTF8", "--no-sync", f"--pgdata={data}"]
        subprocess.run([initdb, *options], user=self._user, check=True, capture_output=True, timeout=60)
        self._process = subprocess.Popen(
            [postgres, "-D", str(data), "-k", str(self._folder), "-c", "listen_addresses=", "-c", "fsync=off"],
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, within=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once
        self._process.wait(timeout=30)
        shutil.rmtree(self._folder)

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://arena@/{name}?host={quote(str(self._folder), safe='')}"

    def _answers(self) -> bool:
        assert self._process.poll() is None, "postgres has ended"
        try:
            psycopg.connect(self._url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


def _find(program: str) -> str:
    found = shutil.which(program, path=os.pathsep.join(_PLACES))
    if found is None:
        pytest.skip(f"PostgreSQL's {program} is not installed")
    return found
