"""`python -m mesh.cli.completion.listing MODULE`: the commands of a program and their flags, as JSON.

Each command is asked for its --help; those of other packages in processes of their own: this package knows none of
them, and each may miss what it needs to run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from mesh.cli.modules import command_line

# The first run of a package may have to compile it.
_LIMIT = 60.0
Node = dict[str, Any]
"""A command: `about`, and either `settings`, as mesh.config tells them, or `commands`, nodes by name."""


def program(module: str) -> Node:
    """What `python -m MODULE` can be told, asked in a process of its own; nothing of one that does not run here."""
    argv = command_line(__spec__.name, module)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def programs(modules: Sequence[str]) -> list[Node]:
    """The same for several at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(program, modules))


def mesh() -> Node:
    """The commands of `mesh`."""
    from mesh.cli.main import COMMANDS, Module

    modules = {name: command.name for name, (command, _) in COMMANDS.items() if isinstance(command, Module)}
    others = dict(zip(modules, programs(list(modules.values())), strict=True))
    nodes = {
        name: {**(others[name] if name in others else ask(command)), "about": about}
        for name, (command, about) in COMMANDS.items()
    }
    return {"commands": nodes}


def ask(main: Callable[[Sequence[str]], object], words: Sequence[str] = ()) -> Node:
    """The node of a command, by its help: JSON of its settings, or a list of commands."""
    text = _help(main, words)
    with contextlib.suppress(ValueError):
        return json.loads(text)
    names = re.findall(r"^  ([a-z][a-z-]*(?: [a-z][a-z-]*)?) +([A-Z].*)$", _below(text), re.MULTILINE)
    return {"commands": _nested({tuple(name.split()): about for name, about in names}, main, words)}


def _nested(
    names: Mapping[tuple[str, ...], str], main: Callable[[Sequence[str]], object], words: Sequence[str]
) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for (first, *rest), about in names.items():
        node = {**ask(main, [*words, first, *rest]), "about": about}
        if rest:
            nodes.setdefault(first, {"commands": {}})["commands"][" ".join(rest)] = node
        else:
            nodes[first] = node
    return nodes


def _below(text: str) -> str:
    """What a list of commands stands below, if there is one."""
    return re.split(r"^(?:commands|tools):$", text, maxsplit=1, flags=re.MULTILINE)[-1] if _LISTS.search(text) else ""


_LISTS = re.compile(r"^(?:commands|tools):$", re.MULTILINE)


def _help(main: Callable[[Sequence[str]], object], words: Sequence[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as written, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return written.getvalue()


if __name__ == "__main__":
    os.environ["MESH_HELP"] = "json"
    node = mesh() if sys.argv[1] == "mesh.cli" else ask(import_module(f"{sys.argv[1]}.__main__").main)
    print(json.dumps(node))
