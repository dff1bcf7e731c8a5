"""`mesh status`: the meshes that `mesh up` runs on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.table import Table

from mesh.cli.show import duration, show
from mesh.cli.up import record
from mesh.cli.up.process import identity
from mesh.cli.up.record import Record
from mesh.config import ConfigError, fail, option, parse
from mesh.errors import MeshError, invalid

_PROG = "mesh status"
_COLUMNS = ("mesh", "process", "pid", "state", "restarts", "address", "models")


@dataclass(frozen=True)
class StatusConfig:
    """Show the meshes of this user that `mesh up` runs on this machine. Exit code 0 if all of it is ready."""

    name: str = option("", "Name of one mesh. Default: all.", positional=True)
    state_dir: Path | None = option(None, "Folder in which they are noted. Default: that of mesh up.")
    json: bool = option(False, "Print JSON.")


def main(argv: Sequence[str]) -> int:
    """Run `mesh status`; returns the exit code."""
    try:
        config = parse(StatusConfig, prog=_PROG, env_prefix="MESH_STATUS_", argv=argv)
        found = [_as_of_now(each) for each in find(record.state_dir(config.state_dir), config.name)]
    except ConfigError as error:
        fail(_PROG, str(error))
    except MeshError as error:
        fail(_PROG, error.message)
    if config.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        show(_table(found) if found else "no mesh runs")
        for mesh in found:
            show(f"logs of {mesh.name}: {mesh.log}/PROCESS.log")
    well = bool(found) and all(each.state == "ready" for mesh in found for each in mesh.processes)
    return 0 if well else 1


def find(folder: Path, name: str) -> list[Record]:
    """The mesh with that name, or all; raises MeshError if there is none with it."""
    found = record.read_all(folder)
    if not name:
        return found
    named = [each for each in found if each.name == name]
    if not named:
        there = ", ".join(each.name for each in found) or "none"
        raise invalid("name", f"no mesh named '{name}' runs; there are: {there}")
    return named


def _as_of_now(mesh: Record) -> Record:
    """What is written may be old: of processes that are gone nothing else is true."""
    for each in mesh.processes:
        if each.state not in ("restarting", "ended") or not mesh.alive:
            each.state = each.state if each.pid and identity(each.pid) == each.identity else "gone"
    return mesh


def _table(found: Sequence[Record]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name in ("pid", "restarts") else "left", overflow="fold")
    for mesh in found:
        state = ("up " + duration(time.time() - mesh.started_at)) if mesh.alive else "gone"
        table.add_row(mesh.name, "mesh up", str(mesh.pid), state, "", f"registry {mesh.registry}", "")
        for each in mesh.processes:
            state = f"{each.state} ({each.exit})" if each.state in ("restarting", "ended") else each.state
            serves = (each.address or "-", ", ".join(each.models))
            table.add_row(mesh.name, each.name, str(each.pid or "-"), state, str(each.restarts), *serves)
    return table
