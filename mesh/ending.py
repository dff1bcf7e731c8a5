"""How our commands end where their output has no reader or no room, and at Ctrl-C: with a sentence or none at all, and
never with a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper

_INTERRUPTED = 128 + signal.SIGINT


def run_to_end(prog: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit code: 130 if Ctrl-C broke into it, 1 if its output could not be written. That
    is told, but not where nobody reads the output any more, as after `| head -1`."""
    _prepare_streams()
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        sys.stderr.write(f"{prog}: {told(error)}\n")
        return 1
    return code


def told(error: OSError) -> str:
    """What is wrong, and with which file if that is known."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename else said


def die_of_interrupts() -> None:
    """Have Ctrl-C end this process on the spot, as it does with most programs, until it has a handler of its own: what
    is imported and opened before that takes seconds, and a traceback out of it tells nobody anything."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _prepare_streams() -> None:
    """Python has None where a process was started without a standard stream, as by `>&-`; and it stops at a character
    that the user's encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """What is left in the buffer would fail once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
