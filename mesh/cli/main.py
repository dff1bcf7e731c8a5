"""`mesh`: the commands by name. Each is imported when it is called, so that `mesh --version` is quick."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence

from mesh.cli.modules import command_line
from mesh.config import fail
from mesh.ending import run_to_end
from mesh.log import silence_grpc
from mesh.version import version

_PROG = "mesh"


def _up(argv: Sequence[str]) -> int:
    from mesh.cli.up.command import main

    return main(argv)


def _status(argv: Sequence[str]) -> int:
    from mesh.cli.up.status import main

    return main(argv)


def _down(argv: Sequence[str]) -> int:
    from mesh.cli.up.down import main

    return main(argv)


def _config(argv: Sequence[str]) -> int:
    from mesh.cli.up.config_check import main

    return main(argv)


def _doctor(argv: Sequence[str]) -> int:
    from mesh.cli.doctor.command import main

    return main(argv)


def _chat(argv: Sequence[str]) -> int:
    from mesh.cli.chat.main import main

    return main(argv)


def _ctl(argv: Sequence[str]) -> int:
    from mesh.cli.ctl import main

    return main(argv)


def _templates(argv: Sequence[str]) -> int:
    from mesh.cli.templates import main

    return main(argv)


class Module:
    """A command that stands on this table or outside this package, which knows none such: this process becomes it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, argv: Sequence[str]) -> int:
        """Run `python -m`."""
        os.execv(sys.executable, command_line(self.name, *argv))


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "up": (_up, "Run a whole mesh on this machine: registry, gateway and workers."),
    "status": (_status, "Show the meshes that `mesh up` runs on this machine."),
    "down": (_down, "Stop one of them."),
    "config": (_config, "Check a file for `mesh up --config`."),
    "doctor": (_doctor, "Tell what is wrong with this installation, and what to do about it."),
    "chat": (_chat, "Talk with a model in the terminal."),
    "ctl": (_ctl, "Look at workers and operate them, and see to the API keys."),
    "arena": (Module("webui.data"), "Take the arena's votes out and in, count them, and write the leaderboard."),
    "mtbench": (
        Module("benchmarks.mt_bench"),
        "Have models answer MT-bench, judge the answers and compare the models.",
    ),
    "data": (Module("training.data"), "Clean, filter, split, compare and convert conversations for training."),
    "train": (Module("training"), "Tune models: supervised fine-tuning and what belongs to it."),
    "weights": (
        Module("training.weights"),
        "Merge adapters, make and apply deltas, convert, shard and publish the weights of a model.",
    ),
    "templates": (_templates, "List the built-in chat templates, or print one."),
    "completion": (
        Module("mesh.cli.completion"),
        "Print what makes a shell complete the commands and flags of the mesh.",
    ),
}
"""Every command: what runs it, and what it is for."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; bad input is one sentence and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    raise SystemExit(run_to_end(" ".join([_PROG, *words[:1]]), lambda: _run(words)))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"{_PROG} {version()}")
        return 0
    if words[0] not in COMMANDS:
        match = difflib.get_close_matches(words[0], COMMANDS, n=1)
        fail(
            _PROG, f"unknown command '{words[0]}'" + (f"; did you mean {match[0]}?" if match else " (see mesh --help)")
        )
    silence_grpc()
    return COMMANDS[words[0]][0](words[1:])


def usage() -> str:
    """The commands, one a line."""
    lines = [f"usage: {_PROG} [--version] COMMAND ...", "", "commands:"]
    lines += [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", f"{_PROG} COMMAND --help tells more."])


if __name__ == "__main__":
    main()
