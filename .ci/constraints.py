"""Prints constraints.txt from the report of `pip install --dry-run --report FILE` (see `make constraints`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEADER = """\
# Every direct and indirect dependency, as resolved for Linux and Python 3.11: `make constraints` writes this file.
# Builds of torch for one accelerator (2.13.0+cpu) count as their release.
"""
FIRST = "torch"


def pins(report: Path, project: str) -> list[str]:
    """The resolved releases as `name==version`, torch first, without the project itself."""
    packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    versions = {package["name"].lower(): package["version"].partition("+")[0] for package in packages}
    versions.pop(project, None)
    return [f"{name}=={versions[name]}" for name in sorted(versions, key=lambda name: (name != FIRST, name))]


if __name__ == "__main__":
    sys.stdout.write(HEADER + "\n".join(pins(Path(sys.argv[1]), "inference-mesh")) + "\n")
