"""`mesh config check`: what a file for `mesh up --config` would run, or what is wrong with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mesh.cli.show import show
from mesh.cli.up.mesh_file import read_mesh_file
from mesh.cli.up.plan import Plan
from mesh.config import ConfigError, fail, option, parse

_PROG = "mesh config check"
_USAGE = "usage: mesh config check FILE"


@dataclass(frozen=True)
class CheckConfig:
    """Check a file for `mesh up --config`, and show what it would run."""

    file: Path | None = option(None, "The file, such as mesh.yaml.", positional=True)


def main(argv: Sequence[str]) -> int:
    """Run `mesh config`; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if argv else 2
    if argv[0] != "check":
        fail("mesh config", f"unknown command '{argv[0]}'; there is: check")
    config = parse(CheckConfig, prog=_PROG, env_prefix="MESH_CONFIG_", argv=argv[1:])
    if config.file is None:
        fail(_PROG, "a file must be named, such as mesh.yaml")
    try:
        plan = read_mesh_file(config.file)
    except ConfigError as error:
        fail(_PROG, str(error))
    show(_table(plan))
    for name, model in plan.aliases.items():
        print(f"{name} stands for {model}")
    served = "in the process of mesh up" if plan.registry_port is not None else "etcd"
    print(f"registry {plan.registry.where}, {served}")
    return 0


def _table(plan: Plan) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("process", "address", "models", "variables", "flags"):
        table.add_column(name, overflow="fold")
    for service in plan.services:
        # Of secrets the names alone.
        shown = [f"{name}={text}" if name == "CUDA_VISIBLE_DEVICES" else name for name, text in service.env.items()]
        argv = shlex.join(service.argv)
        table.add_row(service.name, service.address or "-", ", ".join(service.models), ", ".join(shown), argv)
    return table
