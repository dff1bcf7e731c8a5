"""The keyboard while an answer comes: what is typed ahead must not be drawn into it, and Ctrl-C ends it once."""

from __future__ import annotations

import signal
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


@contextmanager
def no_interrupts(*, deliver: bool) -> Generator[None]:
    """Ctrl-C does not break in, so that what is drawn is drawn whole. It comes afterwards as KeyboardInterrupt if it is
    to be delivered. For the main thread."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and deliver:
        raise KeyboardInterrupt
