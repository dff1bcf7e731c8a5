"""Real processes, what they use, and what is done to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

_ROOT = Path(__file__).parent.parent
_START_LIMIT = 90.0
_STOP_LIMIT = 10.0
_POLL = 0.01
# Below those that the system gives to connections and to servers that leave the choice to it: while ours is not bound
# yet, or its server is down for a while, nobody is given it by chance.
_PORTS = range(20_000, 32_000)


class ProcessFailed(Exception):
    """A process ended, or did not do in time what was expected; the message has the end of its log."""


def python(module: str, *arguments: str) -> list[str]:
    """The command of a Python module in this environment."""
    return [sys.executable, "-m", module, *arguments]


def first_line(error: Exception) -> str:
    """What went wrong, without the end of a log."""
    return str(error).partition("\n")[0].rstrip(":") or type(error).__name__


class Process:
    """One process with its output in a file, or in `output`. On Linux it does not outlive the benchmark."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        self.name = name
        self.log = output or folder / f"{name}.log"
        self.started = time.perf_counter()
        # The settings of whoever runs the benchmark must not reach what is measured, nor what they have kept: a gateway
        # that finds a store opens it, and holds SQLAlchemy from then on.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        environment |= {"MESH_LOG": "json", "PYTHONUNBUFFERED": "1", "XDG_STATE_HOME": str(folder), **(env or {})}
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*end_with_parent(), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=_ROOT,
            )
        self._usage = psutil.Process(self._popen.pid)
        if core is not None:
            self._usage.cpu_affinity([core])

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def cpu(self) -> float:
        """Seconds of CPU since the start, user and system, its children included."""
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._family()))

    def memory(self) -> float:
        """Resident memory in MiB, its children included."""
        return sum(each.memory_info().rss for each in self._family()) / 2**20

    def _family(self) -> list[psutil.Process]:
        return [self._usage, *self._usage.children(recursive=True)]

    def wait_logged(self, message: str) -> dict[str, Any]:
        """Wait for the first log line with this message and return it. Raises ProcessFailed."""
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            for line in self._lines():
                if line.get("message") == message:
                    return line
            self.check()
            time.sleep(_POLL)
        raise ProcessFailed(f"{self.name} did not log '{message}' in {_START_LIMIT:g} s:\n{self.tail()}")

    def check(self) -> None:
        """Raise ProcessFailed if the process has ended."""
        if not self.running:
            raise ProcessFailed(f"{self.name} ended with code {self._popen.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.is_file() else ""

    def kill(self) -> None:
        """SIGKILL, to its children too, and wait for the end."""
        for each in reversed(self._family()) if self.running else ():
            each.kill()
        self._popen.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM; does not wait."""
        self._popen.terminate()

    def stop(self) -> None:
        """End it, first asking."""
        if not self.running:
            return
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()

    def _lines(self) -> Generator[dict[str, Any]]:
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue  # half a line: the process is writing it now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def end_with_parent() -> Sequence[str]:
    """A command before the command that has the kernel end it with us, where there is one (util-linux)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def wait_http(process: Process, port: int, path: str) -> float:
    """Wait until a path answers 200; returns the seconds since the process was started. Raises ProcessFailed."""
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline:
        process.check()
        if _answers(port, path):
            return time.perf_counter() - process.started
        time.sleep(_POLL)
    raise ProcessFailed(f"{process.name} did not answer {path} in {_START_LIMIT:g} s:\n{process.tail()}")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on, and that no other process is given by this function while we live.

    Raises ProcessFailed.
    """
    for port in random.SystemRandom().sample(_PORTS, min(100, len(_PORTS))):  # apart from the generator that tests seed
        with contextlib.suppress(OSError):
            _reserve(port)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
            return port
    raise ProcessFailed(f"none of 100 ports from {_PORTS.start} to {_PORTS.stop - 1} is free")


def _reserve(port: int) -> None:
    """Hold the UDP port of the same number, as a mark: whoever else asks must not take a server that is down for free.

    Raises OSError if it is taken. The system gives it back with the end of this process, however that comes.
    """
    mark = socket.socket(type=socket.SOCK_DGRAM)
    try:
        mark.bind(("127.0.0.1", port))
    except OSError:
        mark.close()
        raise
    mark.detach()  # open until the process ends, without an object that Python would find unclosed then
