"""Tables and texts on standard output."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

_WIDE = 1000


def show(what: Table | str) -> None:
    """Print it; what reads a pipe gets whole words, however long the line."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    console.print(what)
