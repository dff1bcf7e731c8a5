"""Prints THIRD_PARTY.md: every package of this environment, as it says itself (see `make notices`)."""

from __future__ import annotations

import re
import sys
from importlib import metadata

HEAD = """\
# Third-party packages

Written by `make notices`: the packages that an installation of `inference-mesh[all]` brings along on Linux, with the
licences that they name themselves. None of their code is in this repository or in the wheel; their licences come with
them, in their own `dist-info` folders. `make sbom` writes the same with versions, as CycloneDX.

| package | licence | home |
| :-- | :-- | :-- |
"""
# What is there to install packages.
TOOLS = {"pip", "setuptools", "wheel", "inference-mesh"}
HOMES = ("homepage", "home", "repository", "source", "source code", "github", "documentation")


def licence(package: metadata.PackageMetadata) -> str:
    """The expression, else the classifiers, else the first line of the text."""
    if expression := package.get("License-Expression"):
        return expression
    classified = [
        name.rpartition(" :: ")[2] for name in package.get_all("Classifier") or [] if name.startswith("License ::")
    ]
    named = [name for name in classified if name != "OSI Approved"]
    text = (package.get("License") or "").strip().splitlines()
    return ", ".join(named) or (text[0] if text else "see its files")


def home(package: metadata.PackageMetadata) -> str:
    """Where it comes from."""
    urls = dict(line.split(", ", 1) for line in package.get_all("Project-URL") or [])
    urls = {name.lower(): url for name, url in urls.items()}
    return package.get("Home-page") or next((urls[name] for name in HOMES if name in urls), "")


def main() -> None:
    """Print the page."""
    packages = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.metadata for each in metadata.distributions()
    }
    sys.stdout.write(HEAD)
    for name in sorted(packages.keys() - TOOLS):
        sys.stdout.write(f"| {name} | {licence(packages[name])} | {home(packages[name])} |\n")


if __name__ == "__main__":
    main()
