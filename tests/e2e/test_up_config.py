"""`mesh up --config --detach`, `mesh status` and `mesh down`, with a process killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mesh.cli.up.record import ProcessRecord, read_all
from tests.harness import ROOT, free_port, wait_until

SMALL = """\
registry-port: {registry}
worker-port: 0
gateways:
  - {{port: {first}, store: none}}
models:
  - {{engine: scripted}}
"""
FILE = """\
registry-port: {registry}
worker-port: 0
gateways:
  - {{port: {first}, store: none}}
  - {{port: {second}, store: none}}
models:
  - {{engine: scripted, name: fast, replicas: 2, script-tokens: 5, aliases: [gpt-4o]}}
  - {{engine: scripted, name: slow, script-tokens: 5}}
"""


class Machine:
    """Where `mesh` is run, with its file and its folder."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.file = folder / "mesh.yaml"
        self.ports = [free_port() for _ in range(3)]
        self.write(FILE)

    def write(self, text: str) -> None:
        """Say what is to run."""
        self.file.write_text(text.format(registry=self.ports[0], first=self.ports[1], second=self.ports[2]))

    def mesh(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run `mesh ARGV` to its end."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        return subprocess.run(
            [sys.executable, "-m", "mesh.cli", *argv],
            capture_output=True,
            text=True,
            timeout=55,
            cwd=ROOT,
            env={**environ, "MESH_UP_STATE_DIR": str(self.state)},
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """The mesh, as `mesh status` tells."""
        found: list[dict[str, Any]] = json.loads(self.mesh("status", "--json").stdout)
        return found[0] if found else {}

    def process(self, name: str) -> ProcessRecord:
        """One process of it, as `mesh up` noted it last."""
        [mesh] = read_all(self.state)
        return next(each for each in mesh.processes if each.name == name)

    def up(self) -> None:
        """Start it and wait until it is ready."""
        done = self.mesh("up", "--config", str(self.file), "--detach")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "is ready" in done.stdout
        assert f" down {self.ports[1]}\n" in done.stdout

    def answers(self, port: int, model: str) -> bool:
        """Whether a gateway answers for a model."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        try:
            return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=20).is_success
        except httpx.TransportError:
            return False


def runs(pid: int) -> bool:
    """Whether the process runs; an orphan that nobody has reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.mesh("down", "--timeout", "0")


def test_a_mesh_in_the_background(machine: Machine) -> None:
    machine.up()
    mesh = machine.status()
    assert mesh["ready"]
    assert [each["name"] for each in mesh["processes"]] == ["gateway", "gateway-2", "worker-1", "worker-2", "worker-3"]
    assert {each["state"] for each in mesh["processes"]} == {"ready"}
    pids = [mesh["pid"], *(each["pid"] for each in mesh["processes"])]
    assert all(runs(pid) for pid in pids)
    for each in mesh["processes"]:
        assert Path(each["log"]).read_text(), "each process has a log of its own"
    assert all(machine.answers(port, model) for port in machine.ports[1:] for model in ("fast", "slow", "gpt-4o"))

    again = machine.mesh("up", "--config", str(machine.file))
    assert again.returncode == 2
    assert f"process {mesh['pid']}" in again.stderr

    os.kill(machine.process("gateway").pid, signal.SIGKILL)
    assert machine.answers(machine.ports[2], "fast"), "the other gateway is none the worse"
    wait_until(
        lambda: machine.process("gateway").restarts == 1 and machine.process("gateway").state == "ready", within=30
    )
    assert machine.process("gateway").exit == "SIGKILL"
    assert machine.answers(machine.ports[1], "slow")
    pids.append(machine.process("gateway").pid)
    shown = machine.mesh("status")
    assert shown.returncode == 0
    assert f"{pids[-1]}" in shown.stdout
    down = machine.mesh("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert not [pid for pid in pids if runs(pid)]
    assert machine.status() == {}
    assert machine.mesh("down").stdout == "no mesh runs\n"


def test_what_a_killed_mesh_leaves_is_told_and_cleared(machine: Machine) -> None:
    machine.write(SMALL)
    machine.up()
    mesh = machine.status()
    os.kill(mesh["pid"], signal.SIGKILL)
    wait_until(lambda: not runs(mesh["pid"]))
    wait_until(lambda: not [each for each in mesh["processes"] if runs(each["pid"])])
    assert {each["state"] for each in machine.status()["processes"]} == {"gone"}
    assert machine.mesh("status").returncode == 1
    assert machine.mesh("down").returncode == 0
    assert machine.status() == {}


def test_a_mesh_that_cannot_start_says_why(machine: Machine) -> None:
    machine.write(SMALL.replace("engine: scripted", "path: /nowhere/at/all"))
    done = machine.mesh("up", "--config", str(machine.file), "--detach")
    assert done.returncode == 2
    assert "/nowhere/at/all" in done.stderr
    assert machine.status() == {}
