"""`mesh down`: stop a mesh that `mesh up` runs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.cli.up import process, record
from mesh.cli.up.record import Record
from mesh.cli.up.status import find
from mesh.config import ConfigError, fail, option, parse
from mesh.errors import MeshError, invalid

_PROG = "mesh down"
_POLL = 0.1
_KILLED_WITHIN = 5.0


@dataclass(frozen=True)
class DownConfig:
    """Stop a mesh: its gateways end their requests, then its workers."""

    name: str = option("", "Name of the mesh, as `mesh status` shows it; needed if there are several.", positional=True)
    state_dir: Path | None = option(None, "Folder in which it is noted. Default: that of mesh up.")
    timeout: float = option(90.0, "Seconds that it may take; what still runs then is killed.", low=0, high=86400)


def main(argv: Sequence[str]) -> int:
    """Run `mesh down`; returns the exit code: 0, or 1 if something had to be killed."""
    try:
        config = parse(DownConfig, prog=_PROG, env_prefix="MESH_DOWN_", argv=argv)
        folder = record.state_dir(config.state_dir)
        found = find(folder, config.name)
        if not found:
            print("no mesh runs")
            return 0
        if len(found) > 1:
            raise invalid("name", f"several meshes run, so one must be named: {', '.join(each.name for each in found)}")
        return _stop(found[0], folder, config.timeout)
    except ConfigError as error:
        fail(_PROG, str(error))
    except MeshError as error:
        fail(_PROG, error.message)


def _stop(mesh: Record, folder: Path, timeout: float) -> int:
    """Ask `mesh up` to end, which stops its processes in order; kill what is left after that."""
    process.send(mesh.pid, mesh.identity, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while mesh.alive and time.monotonic() < deadline:
        time.sleep(_POLL)
    left = [*([("mesh up", mesh.pid, mesh.identity)] if mesh.alive else []), *_processes(mesh, folder)]
    killed = [name for name, pid, known in left if process.send(pid, known, signal.SIGKILL)]
    deadline = time.monotonic() + _KILLED_WITHIN
    while any(process.identity(pid) == known for _, pid, known in left) and time.monotonic() < deadline:
        time.sleep(_POLL)
    record.path_of(folder, mesh.name).unlink(missing_ok=True)
    if killed:
        print(f"{_PROG}: had to kill {', '.join(killed)}", file=sys.stderr)
        return 1
    print(f"mesh {mesh.name} is down")
    return 0


def _processes(mesh: Record, folder: Path) -> list[tuple[str, int, str]]:
    """Its processes, by what was written last: meanwhile some may have been started again."""
    last = record.read(record.path_of(folder, mesh.name)) or mesh
    return [(each.name, each.pid, each.identity) for each in last.processes if each.pid]
