"""The command itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import shtab

from mesh.cli.completion.listing import Node, programs
from mesh.config import fail, option, parse

_PROG = "mesh completion"
_PROGRAMS: Final = {
    "mesh": "mesh.cli",
    "mesh-worker": "mesh.worker",
    "mesh-gateway": "gateway",
    "mesh-webui": "webui",
}
_LONGEST_HELP = 100


@dataclass(frozen=True)
class CompletionConfig:
    """Print what makes a shell complete the commands and flags of mesh, mesh-worker, mesh-gateway and mesh-webui."""

    shell: Literal["bash", "zsh", "fish"] | None = option(None, "Which one.", positional=True)


def main(argv: Sequence[str]) -> int:
    """Run `mesh completion`; returns the exit code."""
    config = parse(CompletionConfig, prog=_PROG, env_prefix="MESH_COMPLETION_", argv=argv)
    if config.shell is None:
        fail(_PROG, "a shell must be named: bash, zsh or fish")
    for name, node in zip(_PROGRAMS, programs(list(_PROGRAMS.values())), strict=True):
        sys.stdout.write(script(name, node, config.shell))
    return 0


def script(name: str, node: Node, shell: str) -> str:
    """What makes a shell complete one program."""
    return shtab.complete(_parser(name, node), shell) + "\n"


def _parser(name: str, node: Node) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=_short(node.get("about")))
    if "commands" in node:
        parser.add_argument("--version", action="store_true", help="Print the version.")
    _fill(parser, node)
    return parser


def _fill(parser: argparse.ArgumentParser, node: Node) -> None:
    commands: dict[str, Node] = node.get("commands", {})
    if commands:
        group = parser.add_subparsers()
        for name, inner in commands.items():
            about = _short(inner.get("about"))
            _fill(group.add_parser(name, help=about, description=about), inner)
    for setting in node.get("settings", ()):
        _add(parser, setting)


def _add(parser: argparse.ArgumentParser, setting: dict[str, Any]) -> None:
    flag, values = setting["flag"], setting.get("values", "text")
    kind: dict[str, Any] = {"help": _short(setting.get("help"))}
    if values == "yes or no":
        kind["action"] = argparse.BooleanOptionalAction
    elif not flag.startswith("-"):
        kind["nargs"] = "*"
    if setting.get("choices"):
        kind["choices"] = setting["choices"]
    action: Any = parser.add_argument(flag, **kind)
    if values.startswith("path") or "path" in setting.get("field", ""):
        action.complete = shtab.FILE


def _short(text: str | None) -> str:
    """The first sentence, for one line of a menu."""
    first = " ".join((text or "").split()).partition(". ")[0].removesuffix(".")
    short = first if len(first) <= _LONGEST_HELP else first[: _LONGEST_HELP - 1] + "…"
    return short.replace("%", "%%")
