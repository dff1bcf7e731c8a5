"""The load generator's other end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.processes import ProcessFailed

_STOP_LIMIT = 10.0


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
