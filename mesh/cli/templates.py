"""`mesh templates`: the built-in chat templates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from mesh.cli.show import show
from mesh.config import fail, option, parse
from mesh.templates import builtin, find

_PROG = "mesh templates"


@dataclass(frozen=True)
class TemplatesConfig:
    """List the chat templates for models that bring none, or print the one that is named, to be changed and given to
    a worker as --chat-template FILE."""

    name: str = option("", "Print this template.", positional=True)


def main(argv: Sequence[str]) -> int:
    """Run `mesh templates`; returns the exit code."""
    config = parse(TemplatesConfig, prog=_PROG, env_prefix="MESH_TEMPLATES_", argv=argv)
    if not config.name:
        show(_table())
        return 0
    template = find(config.name)
    if template is None:
        fail(_PROG, f"there is no template '{config.name}'; {_PROG} lists them")
    sys.stdout.write(template.text)
    return 0


def _table() -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("name", "for", "also called", "ends an answer"):
        table.add_column(column)
    for template in builtin().values():
        stop = " ".join(repr(text)[1:-1] for text in template.stop)
        table.add_row(template.name, template.about, " ".join(template.aliases), stop)
    return table
