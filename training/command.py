"""A training command: quick to give its help, and what it is made of is imported when there is something to train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mesh.config import fail
from training.reading import BadFile
from training.settings import BadSettings, print_help

T = TypeVar("T")


def command(
    prog: str, options: type[Any], load: Callable[[], tuple[type[Any], Callable[[Any], object]]], argv: Sequence[str]
) -> int:
    """Train; returns the exit code. Bad input is one sentence and exit code 2.

    `load` imports the settings, which are `options` on the trainer's own, and what runs them.
    """
    if {"-h", "--help"}.intersection(argv):
        print_help(options, prog)
        return 0
    settings, run = imported(prog, load)
    from training.parsing import parse_settings

    try:
        run(parse_settings(settings, argv, prog=prog))
    except (BadSettings, BadFile) as error:
        fail(prog, str(error))
    return 0


def imported(prog: str, load: Callable[[], T]) -> T:
    """What `load` imports; ends the process where a package for training is missing."""
    try:
        return load()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("mesh", "training"):
            raise
        fail(prog, f"{package} is not installed: pip install 'inference-mesh[train]'")
