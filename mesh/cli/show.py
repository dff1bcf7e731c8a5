"""Tables and texts on standard output."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

_WIDE = 1000


def show(what: Table | str) -> None:
    """Print it; what reads a pipe gets whole words, however long the line."""
    # Names, paths and messages are no markup, whatever brackets they have.
    console = Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, emoji=False)
    console.print(what)


def duration(seconds: float) -> str:
    """A time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"
