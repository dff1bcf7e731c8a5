"""Real processes, what they use, and the load generator's other end."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

_START_LIMIT = 60.0
_STOP_LIMIT = 10.0
_POLL = 0.01


class ProcessFailed(Exception):
    """A process ended, or did not do in time what was expected; the message has the end of its log."""


class Process:
    """One Python process of the mesh with its log in a file."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], folder: Path, *, core: int | None) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.started = time.perf_counter()
        # The settings of whoever runs the benchmark must not reach what is measured.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        environment |= {"MESH_LOG": "json", "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        self._usage = psutil.Process(self._popen.pid)
        if core is not None:
            self._usage.cpu_affinity([core])

    def cpu(self) -> float:
        """Seconds of CPU since the start, user and system."""
        times = self._usage.cpu_times()
        return times.user + times.system

    def memory(self) -> float:
        """Resident memory in MiB."""
        return self._usage.memory_info().rss / 2**20

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
        if self._popen.poll() is not None:
            raise ProcessFailed(f"{self.name} ended with code {self._popen.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End it, first asking."""
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

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
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Load:
    """The load generator's process (see generator.py)."""

    def __init__(self, popen: subprocess.Popen[str], core: int | None) -> None:
        self._popen = popen
        self._usage = psutil.Process(popen.pid)
        if core is not None:
            self._usage.cpu_affinity([core])

    def cpu(self) -> float:
        """Seconds of CPU since the start, user and system."""
        times = self._usage.cpu_times()
        return times.user + times.system

    def do(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Have a command carried out; raises ProcessFailed with the generator's reason."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self._popen.stdin.flush()
        line = self._popen.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the load generator has ended"}
        if "error" in answer:
            raise ProcessFailed(f"load generator, {command}: {answer['error']}")
        return answer


@contextmanager
def load_generator(port: int, model: str, *, core: int | None) -> Generator[Load]:
    """Start the load generator against a server on this machine, and end it."""
    arguments = ["-m", "benchmarks.load.generator", "--port", str(port), "--model", model]
    popen = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield Load(popen, core)
    finally:
        assert popen.stdin is not None
        popen.stdin.close()
        try:
            popen.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
