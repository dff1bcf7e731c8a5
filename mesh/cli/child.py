"""Runs a module in a process that does not outlive its parent, even one that was killed with SIGKILL.

    python -m mesh.cli.child PARENT_PID MODULE ARGUMENT...

A wrapper, and not a function for between fork and exec: without one of those Python starts processes by vfork, which
leaves the threads of gRPC in the parent alone.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Sequence

from mesh.cli.modules import command_line

_PR_SET_PDEATHSIG = 1


def command(module: str, *args: str) -> list[str]:
    """The command line that runs `python -m module args` as such a child of this process."""
    return command_line(__spec__.name, str(os.getpid()), module, *args)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent (with that pid) is gone.

    SIGKILL, since this is for a parent that had no time to stop its children in order, and a child that is stuck would
    not hear anything milder. It counts from the end of the parent's thread that started this process. Without effect
    on other systems than Linux.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel was asked
        os._exit(1)


def main(argv: Sequence[str]) -> None:
    """Become the module."""
    parent, module, *rest = argv
    end_with_parent(int(parent))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
