"""The keyboard while an answer comes: what is typed ahead must not be drawn into it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

try:
    import termios
except ImportError:  # no such terminals here
    termios = None


@contextmanager
def no_echo() -> Generator[None]:
    """Keys are not shown, and wait for whoever reads next; Ctrl-C works as ever. Nothing without a terminal."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
