"""Every command of ours that a page shows is one that our own parsers take: its name, its flags, their values."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.cli.main import usage
from mesh.config import ConfigError, add_options, from_namespace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = runpy.run_path(str(ROOT / ".ci/reference/settings.py"))
COMMANDS: dict[str, tuple[type[Any], str]] = {name: (kind, prefix) for name, kind, prefix in SETTINGS["ALONE"]} | {
    f"{family} {name}": (kind, prefix)
    for family, commands, prefix in SETTINGS["FAMILIES"]
    for name, kind in commands.items()
}
FAMILIES = {family.split()[1] for family, _, _ in SETTINGS["FAMILIES"]}
PROGRAMS = {name.split()[0] for name in COMMANDS}
_BLOCK = re.compile(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", re.S | re.M)
# What separates commands on a line, and what is no word of any.
_BETWEEN = re.compile(r"^(?:\||\|\||&&|&|;|[<>].*|\d>.*)$")


def commands(text: str) -> Iterator[list[str]]:
    """The commands of the shell blocks of a page, as words, without variables before them."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), ";"]:
                if not _BETWEEN.match(word):
                    words.append(word)
                    continue
                while words and re.match(r"^[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []


def parse(words: list[str]) -> None:
    """Raises what the command itself would say."""
    program = Path(words[0]).name
    words = [program, *words[1:]]
    for length in (4, 3, 2, 1):
        if (found := COMMANDS.get(" ".join(words[:length]))) is not None:
            kind, prefix = found
            parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
            add_options(parser, kind, prefix)
            namespace, unknown = parser.parse_known_args(words[length:])
            assert not unknown, f"unknown: {unknown}"
            if "--help" not in words:
                from_namespace(kind, namespace, prefix, {})
            return
    known = {line.split()[0] for line in usage().splitlines() if line.startswith("  ")} - FAMILIES
    assert words[1:2], "no command"
    assert words[1] in known or words[-1] in ("--help", "--version"), "no such command"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_commands_that_there_are(page: Path) -> None:
    for words in commands(page.read_text()):
        if Path(words[0]).name in PROGRAMS:
            try:
                parse(words)
            except Exception as error:
                pytest.fail(f"{page.name}: {shlex.join(words)}: {error}")


def test_the_pages_show_some() -> None:
    shown = [words for page in PAGES for words in commands(page.read_text()) if Path(words[0]).name in PROGRAMS]
    assert len(shown) > 40


@pytest.mark.parametrize(
    "line",
    [
        "mesh-worker --modle-path x",
        "mesh-gateway --port 99999",
        "mesh ctl darin worker",
        "mesh chta",
        "A=1 .venv/bin/mesh up --engine magic",
        "echo | mesh mtbench answer --modell x",
    ],
)
def test_a_command_that_there_is_not_is_found(line: str) -> None:
    [*_, words] = commands(f"```sh\n{line}\n```\n")
    with pytest.raises((AssertionError, argparse.ArgumentError, ConfigError)):
        parse(words)


def flags_of(command: str) -> set[str]:
    """All flags that a command takes, those that switch something off among them."""
    kind, prefix = COMMANDS[command]
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser, kind, prefix)
    return {flag for action in parser._actions for flag in action.option_strings}  # pyright: ignore[reportPrivateUsage]


def test_the_guide_for_those_who_come_from_fastchat_names_what_there_is() -> None:
    """In each section, flags of the last column are of the command that `Here:` names; whole commands are parsed."""
    here, shown = "", 0
    for line in (ROOT / "docs/migration.md").read_text().splitlines():
        if line.startswith("## "):
            here = ""
        elif line.startswith("Here: "):
            here = line.removeprefix("Here: ").strip("`")
        ours = line.rstrip(" |").rpartition(" | ")[2] if line.startswith("|") else line
        for code in re.findall(r"`([^`]+)`", ours):
            words = shlex.split(code)
            if words[0] in PROGRAMS and len(words) > 1 and not line.startswith("Here: "):
                parse(words)
                shown += 1
            elif words[0].startswith("--"):
                assert here, f"{line}: of which command?"
                assert words[0] in flags_of(here), line
                shown += 1
    assert shown > 80
