"""deploy/skypilot and deploy/slurm: the scripts parse, and the flags in them are those that our commands have."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.config import GatewayConfig
from mesh.worker.config import WorkerConfig
from training.parsing import RENAMED
from training.sft.settings import SftSettings

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
SETTINGS: Final[dict[str, type[Any]]] = {
    "mesh-gateway": GatewayConfig,
    "mesh-worker": WorkerConfig,
    "training.sft": SftSettings,
}


def scripts() -> dict[str, str]:
    """The shell scripts by name, those within SkyPilot's tasks too."""
    found = {path.name: path.read_text() for path in sorted(DEPLOY.glob("slurm/*.sbatch"))}
    for path in sorted(DEPLOY.glob("skypilot/*.yaml")):
        task: dict[str, Any] = yaml.safe_load(path.read_text())
        found |= {f"{path.name} {part}": task[part] for part in ("setup", "run")}
    return found


SCRIPTS: Final = scripts()


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_reads_it(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=SCRIPTS[name], text=True, capture_output=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_flags_are_those_of_our_commands() -> None:
    """Also those of the calls that the comments show."""
    text = "\n".join(path.read_text() for path in DEPLOY.glob("s[kl]*/*.*")) + "\n"
    text = text.replace("\\\n", " ")
    seen = 0
    for command, settings in SETTINGS.items():
        known = {field.name for field in fields(settings)} | {"recipe", *RENAMED}
        for line in re.findall(rf"(?:bin/|-m ){re.escape(command)}\"? (.*)", text):
            for flag in re.findall(r"--([a-z-]+)", line):
                assert flag.replace("-", "_") in known, f"{command} has no --{flag}"
                seen += 1
    assert seen > 15
