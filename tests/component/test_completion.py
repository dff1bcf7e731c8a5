"""Completion of commands and flags: what the programs say of themselves, and what bash makes of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from mesh.cli import ctl
from mesh.cli.completion.command import script
from mesh.cli.completion.listing import Node, ask, program
from tests.harness import ROOT


@pytest.fixture(autouse=True)
def json_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_HELP", "json")


def completed(name: str, node: Node, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    line = shlex.join([name, *words])
    last, before = [name, *words][-1], [name, *words][-2]
    asking = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
        f"complete -p {name} | grep -q . && function=$(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
        f"$function {name} {shlex.quote(last)} {shlex.quote(before)}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script(name, node, 'bash')}\n{asking}"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout.split()


def test_commands_of_two_words_their_flags_and_values():
    node = {"commands": {"ctl": ask(ctl.main)}}
    assert completed("mesh", node, "c") == ["ctl"]
    assert completed("mesh", node, "ctl", "dr") == ["drain"]
    assert completed("mesh", node, "ctl", "keys", "") == ["create", "list", "show", "revoke"]
    assert completed("mesh", node, "ctl", "drain", "--st") == ["--stop"]
    assert completed("mesh", node, "ctl", "routes", "set", "--pol") == ["--policy"]


def test_a_program_of_another_package_is_asked_in_a_process_of_its_own():
    node = program("gateway")
    assert completed("mesh-gateway", node, "--polic") == ["--policy"]
    assert "prefix_aware" in completed("mesh-gateway", node, "--policy", "")
    assert program("benchmarks.no_such_module") == {}


def test_training_is_completed_too():
    node = program("training")
    assert completed("mesh", {"commands": {"train": node}}, "train", "sft", "--lora-b") == ["--lora-bias"]
    assert completed("mesh", {"commands": {"train": node}}, "train", "demo", "--eval-o") == ["--eval-only"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_served(shell: str):
    text = script("mesh", {"commands": {"ctl": ask(ctl.main)}}, shell)
    assert all(word in text for word in ("drain", "stop", "throughput"))


def test_help_as_json():
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "ctl", "drain", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        env={**os.environ, "MESH_HELP": "json"},
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["command"], told["about"].split()[:2]) == ("mesh ctl drain", ["Have", "a"])
    by_flag = {setting["flag"]: setting for setting in told["settings"]}
    assert by_flag["--stop"]["variable"] == "MESH_CTL_STOP"
    assert by_flag["worker"]["values"] == "text"
