"""Processes of other commands, told from later ones that were given the same pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_LIMIT = 5.0


def identity(pid: int) -> str | None:
    """What no later process with this pid has: when it began. None if there is none that runs."""
    if sys.platform == "linux":
        return _linux_identity(pid)
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    state, _, started = done.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else " ".join(started.split())


def _linux_identity(pid: int) -> str | None:
    try:
        # The name of the program, in brackets, may hold anything; after it come the state and, 19 further, the start.
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in "ZX" else f"{boot} {words[19]}"


def send(pid: int, expected: str, number: signal.Signals) -> bool:
    """Send a signal to the process that was `expected` under this pid; returns whether it was still there."""
    if sys.platform != "linux":
        if identity(pid) != expected:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True
    try:
        handle = os.pidfd_open(pid)
    except OSError:  # there is none, or none can have that pid
        return False
    try:
        # Looked at after the handle was taken: it then belongs to that process and to no later one.
        if identity(pid) != expected:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True
