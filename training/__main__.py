"""`mesh train`, `python -m training`: the commands by name. Each is imported when it is called."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

from mesh.config import fail
from mesh.ending import run_to_end

_PROG: Final = "mesh train"
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "sft": ("training.sft.__main__", "Supervised fine-tuning on conversations: a whole model, or an adapter of it."),
    "dpo": ("training.dpo.__main__", "Tune a model to prefer the better of two answers (DPO)."),
    "demo": ("training.demo.__main__", "Make a demonstration model from nothing, and examine it."),
}
"""What a command is called, the module whose `main(argv)` it is, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Bad input is one sentence and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] not in COMMANDS:
        match = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {match[0]}?" if match else f" (see {_PROG} --help)"
        fail(_PROG, f"unknown command '{words[0]}'{hint}")
    return import_module(COMMANDS[words[0]][0]).main(words[1:])


def usage() -> str:
    """The commands, one a line."""
    lines = [f"usage: {_PROG} COMMAND ...", "", "commands:"]
    lines += [f"  {name:<8}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join([*lines, "", f"{_PROG} COMMAND --help tells more."])


if __name__ == "__main__":
    raise SystemExit(run_to_end(_PROG, main))
