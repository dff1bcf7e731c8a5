"""What a measurement was made on: no host names, no paths, nothing that identifies a place."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

_ROOT = Path(__file__).parent.parent
# Instruction sets that decide how fast matrix products are; the rest of the list is noise here.
_TELLING = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")
_PACKAGES = ("torch", "transformers", "grpcio", "protobuf", "quart", "uvicorn", "uvloop")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine and one checkout. Memory in GiB; `load` is the one-minute load average at the start."""

    date: str
    commit: str
    cpu: str
    cores: int
    instructions: tuple[str, ...]
    memory: float
    load: float
    python: str
    packages: dict[str, str]

    def lines(self) -> list[str]:
        """For a report: one fact a line."""
        versions = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return [
            f"date {self.date}, commit {self.commit}",
            f"{self.cpu}, {self.cores} cores ({', '.join(self.instructions) or 'no vector extensions reported'}), "
            f"{self.memory:.0f} GiB, load average {self.load:.1f} at the start",
            f"Python {self.python}, {versions}",
        ]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def describe() -> Machine:
    """This machine and this checkout, now."""
    model, flags = _cpu()
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        cpu=model,
        cores=cores(),
        instructions=tuple(name for name in _TELLING if name in flags),
        memory=_memory(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        packages=_versions(),
    )


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> tuple[str, frozenset[str]]:
    """Model name and instruction set flags, from /proc/cpuinfo where there is one."""
    model, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return model, flags
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() in ("flags", "Features"):
            flags = frozenset(value.split())
    family = _field(text, "cpu family")
    return (f"{model} (family {family}, model {_field(text, 'model')})" if family else model), flags


def _field(cpuinfo: str, wanted: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == wanted:
            return value.strip()
    return ""


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _commit() -> str:
    """The short hash, with `+` if tracked files differ from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
