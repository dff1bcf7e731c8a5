"""The file by which other commands find a running `mesh up`: its processes, as it saw them last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from mesh.cli.up.process import identity
from mesh.errors import invalid

State = Literal["starting", "ready", "draining", "restarting", "ended", "gone"]
_SUFFIX = ".json"


class ProcessRecord(msgspec.Struct):
    """One process of a mesh.

    identity: see process.py. restarts: since the mesh began. exit: how it ended last. worker_id: of the registry.
    """

    name: str
    kind: str
    pid: int
    identity: str
    state: State
    restarts: int
    address: str
    log: str
    models: list[str] = []
    worker_id: str = ""
    exit: str = ""


class Record(msgspec.Struct):
    """A mesh: the process of `mesh up`, and those that it started. Times are seconds since 1970."""

    name: str
    version: str
    pid: int
    identity: str
    started_at: float
    ready: bool
    registry: str
    log: str
    processes: list[ProcessRecord]

    @property
    def alive(self) -> bool:
        """Whether its `mesh up` still runs."""
        return identity(self.pid) == self.identity


def state_dir(given: Path | None) -> Path:
    """The folder with a file for each mesh of this user; the variable of `mesh up` holds for all commands."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return given or Path(os.environ.get("MESH_UP_STATE_DIR") or Path(home) / "inference-mesh" / "up")


def path_of(folder: Path, name: str) -> Path:
    """The file of the mesh with that name; raises MeshError for one that cannot be in the name of a file."""
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise invalid("name", f"--name must consist of letters, digits, '-', '_' and '.', not be '{name}'")
    return folder / f"{name}{_SUFFIX}"


def write(path: Path, record: Record) -> None:
    """Replace the file in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    fresh.replace(path)


def read(path: Path) -> Record | None:
    """The record, or None if there is none; raises MeshError for a file that is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise invalid("state_dir", f"{path} is not the record of a mesh: {error}") from None


def read_all(folder: Path) -> list[Record]:
    """All of them, by name; raises MeshError."""
    found = [read(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
    return [record for record in found if record is not None]
