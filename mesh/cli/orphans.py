"""Children that do not outlive their parent, even one that was killed with SIGKILL."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec a child of a process with threads must not take locks.
_prctl: Callable[[int, int], int] | None = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent(parent: int) -> None:
    """For `preexec_fn`: have the kernel send SIGTERM to this process when its parent (with that pid) is gone.

    Counts from the end of the thread that started the process. Does nothing on systems other than Linux.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # gone before the request to be told was made
        os._exit(1)
