"""Children that do not outlive their parent, even one that was killed with SIGKILL."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec, a child of a process with threads must not take locks.
_prctl: Callable[[int, int], int] | None = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent(parent: int) -> None:
    """For `preexec_fn`: have the kernel kill this process when its parent (with that pid) is gone.

    SIGKILL, since this is for a parent that had no time to stop its children in order, and a child that is stuck would
    not hear anything milder. Counts from the end of the thread that forked. Without effect on other systems than Linux.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel was asked
        os._exit(1)
