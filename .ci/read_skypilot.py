"""Has SkyPilot read tasks; run by lint_deploy.py in an environment that has it (tests/deploy/skypilot.txt)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import sky
import yaml

for path in sys.argv[1:]:
    task: dict[str, Any] = yaml.safe_load(Path(path).read_text())
    missing = {name: "given" for name, value in task.get("envs", {}).items() if value is None}
    sky.Task.from_yaml_config(task, env_overrides=missing)
