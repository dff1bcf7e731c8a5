"""`mesh up --detach`: the same in a process of its own, which goes on after the terminal is closed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mesh.cli.modules import command_line
from mesh.cli.up import record
from mesh.cli.up.banner import banner, typed
from mesh.cli.up.logs import Log
from mesh.cli.up.plan import Plan
from mesh.cli.up.supervisor import Notes
from mesh.errors import MeshError

_POLL = 0.2
_SHOWN = 20


def run_detached(argv: Sequence[str], notes: Notes, plan: Plan) -> int:
    """Start it and wait until everything runs; returns the exit code, its own if it ends before.

    There is no limit, as a model may take long to load; Ctrl-C ends the wait, and the mesh goes on.
    """
    with Log(notes.logs / "up.log") as log:
        process = subprocess.Popen(
            command_line("mesh.cli", "up", *argv, "--no-detach", "--no-echo"),
            stdin=subprocess.DEVNULL,
            stdout=log.fileno(),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    print(f"mesh up: process {process.pid} starts everything; logs are in {notes.logs}", file=sys.stderr)
    try:
        while not _is_ready(notes.path, process.pid):
            if process.poll() is not None:
                print(_end_of(log.path), file=sys.stderr)
                return process.returncode
            time.sleep(_POLL)
    except KeyboardInterrupt:
        print(f"\nit goes on; `mesh status {notes.name}` shows it, `mesh down {notes.name}` stops it", file=sys.stderr)
        return 130
    print(banner(plan, typed(f"down {notes.name}")))
    return 0


def _is_ready(path: Path, pid: int) -> bool:
    try:
        found = record.read(path)
    except MeshError:
        return False
    return found is not None and found.pid == pid and found.ready


def _end_of(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-_SHOWN:])
