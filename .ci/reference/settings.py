"""`python .ci/reference/settings.py`: prints docs/settings.md, from the classes that parse flags and environment."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mt_bench import config as mtbench
from gateway.config import GatewayConfig
from mesh.cli import ctl
from mesh.cli.chat.config import ChatConfig
from mesh.cli.completion.command import CompletionConfig
from mesh.cli.doctor.command import DoctorConfig
from mesh.cli.templates import TemplatesConfig
from mesh.cli.up.config_check import CheckConfig
from mesh.cli.up.down import DownConfig
from mesh.cli.up.settings import UpConfig
from mesh.cli.up.status import StatusConfig
from mesh.config import Setting, settings
from mesh.worker.config import WorkerConfig
from mesh.worker.flags import Flags
from training.data import cli as data
from training.demo import config as demo
from training.demo.config import DemoConfig
from training.dpo.options import DpoOptions
from training.settings import listed
from training.sft.options import SftOptions
from training.weights import config as weights
from webui.config import WebConfig, default_store
from webui.data import config as arena

HEAD = """# Settings

Written by `make docs` from the code; a test sees to it that it is current.

Each setting is a flag and an environment variable. A flag wins over the environment, the environment over the default.
What may be repeated is separated by commas in the environment; what is yes or no is `--flag` or `--no-flag`, and `true`
or `false` in the environment. Sizes are written as `4GiB`, `512MB` or a number of bytes. A misspelt flag or variable
ends the command with exit code 2 and names the closest one that there is. `COMMAND --help` tells the same.

All commands read two variables more: `MESH_LOG` (`text` or `json`; by default text at a terminal and JSON elsewhere)
and `MESH_LOG_LEVEL` (`DEBUG`, `INFO`, `WARNING`, `ERROR`; by default `INFO`). With `MESH_HELP=json`, `--help` prints
the settings of a command as JSON, for programs.
"""
TRAIN = """## mesh train

`mesh train sft` and `mesh train dpo` take the settings of transformers' Trainer and some of their own, as flags, in the
environment or in a recipe. Below are the usual ones, `--help-all` shows all of them; [Training](training.md) and
[From votes to a better model](loop.md) tell what they are for.
"""
Command = tuple[str, type[Any], str]
"""What is typed, its settings, the beginning of its variables."""

ALONE: Sequence[Command] = [
    ("mesh up", UpConfig, "MESH_UP_"),
    ("mesh status", StatusConfig, "MESH_STATUS_"),
    ("mesh down", DownConfig, "MESH_DOWN_"),
    ("mesh config check", CheckConfig, "MESH_CONFIG_"),
    ("mesh doctor", DoctorConfig, "MESH_DOCTOR_"),
    ("mesh chat", ChatConfig, "MESH_CHAT_"),
    ("mesh-gateway", GatewayConfig, "MESH_GATEWAY_"),
    ("mesh-worker", WorkerConfig, "MESH_WORKER_"),
    ("mesh-webui", WebConfig, "MESH_WEBUI_"),
    ("mesh templates", TemplatesConfig, "MESH_TEMPLATES_"),
    ("mesh completion", CompletionConfig, "MESH_COMPLETION_"),
]


FAMILIES: Sequence[tuple[str, dict[str, type[Any]], str]] = [
    ("mesh ctl", {name: kind for name, (kind, _) in ctl.COMMANDS.items()}, "MESH_CTL_"),
    ("mesh mtbench", mtbench.COMMANDS, mtbench.ENV_PREFIX),
    ("mesh arena", arena.COMMANDS, arena.ENV_PREFIX),
    ("mesh data", data.COMMANDS, data.ENV_PREFIX),
    ("mesh weights", weights.COMMANDS, weights.ENV_PREFIX),
]

TRAINING: dict[str, type[Any]] = {"sft": SftOptions, "dpo": DpoOptions}


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for command in ALONE:
        lines += _command("##", *command)
    for family in FAMILIES:
        lines += _family(*family)
    return "\n".join([*lines, *_train()]).rstrip()


def _train() -> Iterator[str]:
    yield TRAIN
    for name, kind in TRAINING.items():
        yield from _heading("###", f"mesh train {name}", kind)
        yield from _table(listed(kind))
    yield from _command("###", "mesh train demo", DemoConfig, demo.ENV_PREFIX)


def _family(name: str, commands: dict[str, type[Any]], prefix: str) -> Iterator[str]:
    """Commands that share variables; what all of them take is told once."""
    own = {command: settings(kind, prefix) for command, kind in commands.items()}
    first, *others = own.values()
    shared = [each for each in first if all(each in other for other in others)]
    yield f"## {name}\n"
    if shared:
        yield "All of its commands take:\n"
        yield from _table(shared)
    for command, kind in commands.items():
        yield from _heading("###", f"{name} {command}", kind)
        yield from _table(each for each in own[command] if each not in shared)


def _command(level: str, name: str, kind: type[Any], prefix: str) -> Iterator[str]:
    yield from _heading(level, name, kind)
    if not issubclass(kind, Flags):
        yield from _table(settings(kind, prefix))
        return
    given = settings(kind, prefix)
    for group in reversed(kind.__mro__):
        own = [each for each in given if each.field in inspect.get_annotations(group)]
        if own:
            engines = f" Engines: {', '.join(sorted(group.engines))}." if group.engines else ""
            yield f"**{_about(group).rstrip('.')}.**{engines}\n"
            yield from _table(own)


def _heading(level: str, name: str, kind: type[Any]) -> Iterator[str]:
    yield f"{level} {name}\n"
    yield f"{_about(kind)}\n"


def _about(kind: type[Any]) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def _table(rows: Iterable[Setting]) -> Iterator[str]:
    listed = list(rows)
    if not listed:
        return
    yield "| setting | meaning |"
    yield "| :-- | :-- |"
    for each in listed:
        yield f"| `{each.flag}`<br>`{each.variable}` | {_meaning(each)} |"
    yield ""


def _meaning(setting: Setting) -> str:
    default = "" if setting.default is None else f"default `{_shown(setting.default)}`"
    values = "" if setting.values == "text" else f"{setting.values}; "
    told = f"<br>{values}{default}".rstrip("; ")
    return _escaped(setting.help) + ("" if told == "<br>" else told)


def _escaped(text: str) -> str:
    """As it is, in a cell of a table."""
    return re.sub(r"([*|<\\])", r"\\\1", text)


def _shown(value: Any) -> str:
    if value == default_store():
        return "~/.local/share/inference-mesh/arena.sqlite3"  # whoever runs this
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).replace(str(Path.home()), "~")


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
