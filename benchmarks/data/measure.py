"""What a tool takes: time on the clock and of the CPU, and memory over the run."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

_EVERY_S: Final = 0.05
_POINTS: Final = 100


class Cost(msgspec.Struct, frozen=True):
    """What a command took: seconds on the clock and of the CPU, for `size` bytes."""

    tool: str
    processes: int
    size: int
    wall: float
    cpu: float
    memory: list[float]
    """MiB: the most in each hundredth of the run's time."""


def measure(tool: str, words: Sequence[str], processes: int, size: int, output: Path) -> Cost:
    """Run a tool to its end; what it wrote is deleted. Raises SystemExit if it fails."""
    command = [sys.executable, "-m", "training.data", *words, "--output", str(output), "--processes", str(processes)]
    before, started = _cpu_of_children(), time.monotonic()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    found: list[tuple[float, float]] = []
    while running.poll() is None:
        found.append((time.monotonic() - started, _memory(running.pid) / 2**20))
        time.sleep(_EVERY_S)
    wall = time.monotonic() - started
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {running.returncode}")
    for file in output.parent.glob(f"{output.stem}*"):
        file.unlink()
    sys.stderr.write(f"{tool}, {processes}: {wall:.0f} s\n")
    return Cost(tool, processes, size, wall, _cpu_of_children() - before, _course(found, wall))


def _course(found: Sequence[tuple[float, float]], wall: float) -> list[float]:
    """The most memory in each hundredth of the time; where nothing was seen, as before."""
    course = [0.0] * _POINTS
    for at, memory in found:
        place = min(_POINTS - 1, int(_POINTS * at / wall))
        course[place] = max(course[place], memory)
    for place in range(1, _POINTS):
        course[place] = course[place] or course[place - 1]
    return course


def _cpu_of_children() -> float:
    """Seconds of all that ended, and of what these started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    """Bytes of a process and those below it; 0 for what has just ended."""
    total = 0
    try:
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        return total
    return total
