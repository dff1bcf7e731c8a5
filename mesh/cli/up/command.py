"""`mesh up`: a whole mesh on this machine with one command."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import closing

from mesh import log
from mesh.cli.up import record
from mesh.cli.up.banner import banner, typed
from mesh.cli.up.detach import run_detached
from mesh.cli.up.mesh_file import read_mesh_file
from mesh.cli.up.plan import Plan, plan_of
from mesh.cli.up.settings import UpConfig
from mesh.cli.up.supervisor import Notes, Supervisor
from mesh.cli.up.teller import Teller
from mesh.config import ConfigError, fail, parse
from mesh.errors import MeshError, invalid

_PROG = "mesh up"


def main(argv: Sequence[str]) -> int:
    """Run `mesh up`; returns the exit code."""
    try:
        config = parse(UpConfig, prog=_PROG, env_prefix="MESH_UP_", argv=argv)
        plan = _without_missing(plan_of(config) if config.config is None else read_mesh_file(config.config))
        notes = _notes(config, plan)
        if config.detach:
            return run_detached(argv, notes, plan)
        os.environ.setdefault("MESH_LOG", "text")  # its children's lines are text too
        stop = "Ctrl-C" if config.echo else typed(f"down {notes.name}")
        with closing(Teller(sys.stderr)) as tell, closing(Teller(sys.stdout)) as show:
            log.setup("up", tell)
            supervisor = Supervisor(plan, notes, tell, lambda: show(banner(plan, stop)))
            return asyncio.run(supervisor.run())
    except (ConfigError, OSError) as error:
        fail(_PROG, str(error))
    except MeshError as error:
        fail(_PROG, error.message)


def _notes(config: UpConfig, plan: Plan) -> Notes:
    """Raises MeshError where a mesh with that name runs already."""
    folder = record.state_dir(config.state_dir)
    name = config.name or plan.default_name
    path = record.path_of(folder, name)
    there = record.read(path)
    if there is not None and there.alive:
        raise invalid(
            "name",
            f"a mesh named {name} runs already, process {there.pid}; `mesh down {name}` stops it, --name NAME "
            "calls this one differently",
        )
    return Notes(name=name, path=path, logs=config.log_dir or folder / name, echo=config.echo)


def _without_missing(plan: Plan) -> Plan:
    """The plan, without what is not installed."""
    if plan.of("webui") and importlib.util.find_spec("gradio") is None:
        print(f"{_PROG}: no web pages: they need pip install 'inference-mesh[webui]'", file=sys.stderr)
        return dataclasses.replace(plan, services=tuple(each for each in plan.services if each.kind != "webui"))
    return plan
