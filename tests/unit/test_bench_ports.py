"""Ports for servers that may be down for a while: nobody else is given them meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys

from benchmarks.processes import free_port
from tests.harness import ROOT

_ASK = """
import sys
from benchmarks import processes
if len(sys.argv) > 1:
    processes._PORTS = range(int(sys.argv[1]), int(sys.argv[1]) + 1)
print(processes.free_port())
"""


def elsewhere(*choice: int) -> subprocess.CompletedProcess[str]:
    """Another process asks, with one port to choose from or all."""
    command = [sys.executable, "-c", _ASK, *map(str, choice)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_a_port_that_nobody_uses_yet_is_given_to_no_other_process() -> None:
    asked = elsewhere(free_port())
    assert asked.returncode == 1
    assert "ProcessFailed: none of" in asked.stderr


def test_a_port_comes_back_with_the_end_of_the_process_that_had_it() -> None:
    port = int(elsewhere().stdout)
    assert elsewhere(port).stdout.strip() == str(port)


def test_a_port_on_which_somebody_listens_is_not_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "ProcessFailed: none of" in elsewhere(server.getsockname()[1]).stderr
