"""How one of our commands runs another."""

from __future__ import annotations

import sys


def command_line(module: str, *argv: str) -> list[str]:
    """The command line that runs a module of this installation.

    -P: not a package of that name in the folder where the user is, who may well have a `training` or a `gateway`.
    """
    return [sys.executable, "-P", "-m", module, *argv]
