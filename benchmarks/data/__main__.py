"""`python -m benchmarks.data`: the data tools on made-up conversations; prints a table for RESULTS.md.

Each tool runs as a command of its own, on a tenth of the file and on the whole one: memory that is flat is the same for
both. "MiB" is the most that the command and its processes had at a moment, by resident set, so that what they share
counts for each. A busy machine slows the wall clock; MB per CPU second bears that.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks import machine
from benchmarks.data.synthetic import write
from benchmarks.table import markdown, number

_TOKENIZER: Final = str(Path(__file__).parents[2] / "mesh" / "demo" / "models" / "mesh-demo")
_CHAIN: Final = "steps: [clean, language, formats, quality, {dedup: {near: false}}, redact]\n"
_TOOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "convert": ("convert",),
    "clean": ("clean",),
    "language": ("language",),
    "quality": ("quality",),
    "redact": ("redact",),
    "split": ("split", "--tokenizer", _TOKENIZER, "--max-tokens", "2048"),
    "dedup --no-near": ("dedup", "--no-near"),
    "dedup": ("dedup",),
    "chain of six": ("run", "CHAIN"),
}
_EVERY_S: Final = 0.05


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds on the clock and of the CPU, and the most memory in MiB."""

    wall: float
    cpu: float
    memory: float


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file (default: 1000)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="to compare (default: 1 2)")
    parser.add_argument("--tools", nargs="+", choices=tuple(_TOOLS), default=list(_TOOLS), help="which (default: all)")
    given = parser.parse_args()
    print("\n".join(f"- {line}" for line in machine.describe().lines()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "chain.yaml").write_text(_CHAIN)
        sizes = [given.megabytes // 10, given.megabytes]
        files = [folder / f"{size}.jsonl" for size in sizes]
        lines = [write(file, size * 10**6) for file, size in zip(files, sizes, strict=True)]
        print(f"- {lines[-1]:,} conversations of {given.megabytes} MB, and the first {lines[0]:,} of them\n")
        rows = [_row(tool, count, files) for tool in given.tools for count in given.processes]
    header = ["tool", "processes", "MB/s", "MB per CPU s", "MiB, a tenth", "MiB, all"]
    print(markdown(header, rows))


def _row(tool: str, processes: int, files: Sequence[Path]) -> list[str]:
    small, whole = (_measure([*_TOOLS[tool], str(file)], processes, file) for file in files)
    size = files[-1].stat().st_size / 10**6
    sys.stderr.write(f"{tool}, {processes}: {whole.wall:.0f} s\n")
    speed = number(size / whole.wall), number(size / whole.cpu)
    return [tool, str(processes), *speed, f"{small.memory:.0f}", f"{whole.memory:.0f}"]


def _measure(words: Sequence[str], processes: int, file: Path) -> Cost:
    out = file.with_suffix(".out.jsonl")
    arguments = [str(file.parent / "chain.yaml") if word == "CHAIN" else word for word in words]
    command = [sys.executable, "-m", "training.data", *arguments, "--output", str(out), "--processes", str(processes)]
    before, started = _cpu_of_children(), time.monotonic()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    most = 0
    while running.poll() is None:
        most = max(most, _memory(running.pid))
        time.sleep(_EVERY_S)
    wall = time.monotonic() - started
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {running.returncode}")
    out.unlink()
    return Cost(wall, _cpu_of_children() - before, most / 2**20)


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


if __name__ == "__main__":
    main()
