"""Hosts on one switch: a network namespace each, joined by a bridge in one more namespace.

Nothing of the machine's own network is touched. A link that is cut loses packets without a word, as a cable does.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from mesh.cli.child import command
from tests.harness import ROOT

_LIMIT = 10.0
_numbers = itertools.count(1)


def require_namespaces() -> None:
    """Skip where this user or system can make no network namespaces."""
    missing = [tool for tool in ("ip", "bridge", "setpriv") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"there is no {missing[0]} (Debian: iproute2, util-linux)")
    name = f"mesh-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "add", "br0", "type", "bridge")
    except AssertionError as error:
        pytest.skip(f"network namespaces are not allowed here: {error}")
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=_LIMIT, check=False)


class Network:
    """A switch. `with` it; on leaving all hosts and their processes are gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self._prefix = f"mesh-{os.getpid()}-{next(_numbers)}"
        self.switch = f"{self._prefix}-switch"

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.switch)
        _run("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", self.switch, "link", "set", "switch", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            if error is not None:
                error.add_note(host.tail())
            host.kill()
            _run("ip", "netns", "del", host.namespace)
        _run("ip", "netns", "del", self.switch)

    def add(self, name: str) -> Host:
        """One more host, whose name is a few letters."""
        host = Host(self, name, f"10.213.0.{len(self.hosts) + 1}", f"{self._prefix}-{name}")
        self.hosts[name] = host
        return host

    def cut(self, one: Host, other: Host) -> None:
        """Let nothing through between two hosts; each still reaches all others. One pair at a time."""
        for host in (one, other):
            _run("bridge", "-n", self.switch, "link", "set", "dev", host.port, "isolated", "on")

    def mend(self) -> None:
        """Undo `cut` and `Host.lose_power`."""
        for host in self.hosts.values():
            _run("ip", "-n", self.switch, "link", "set", host.port, "master", "switch")
            _run("bridge", "-n", self.switch, "link", "set", "dev", host.port, "isolated", "off")


class Host:
    """A namespace with an address, and at most one process."""

    def __init__(self, network: Network, name: str, address: str, namespace: str) -> None:
        self.name = name
        self.address = address
        self.namespace = namespace
        self.port = f"to-{name}"
        self.process: subprocess.Popen[str] | None = None
        self._network = network
        self._log = network.folder / f"{name}.log"
        switch = network.switch
        _run("ip", "netns", "add", namespace)
        _run("ip", "-n", switch, "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _run("ip", "-n", switch, "link", "set", self.port, "master", "switch", "up")
        _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", namespace, "link", "set", device, "up")

    def start(self, argv: Sequence[str], *, pipes: bool = False) -> None:
        """Run a program there. With `pipes` its standard input and output are ours."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "setpriv", "--pdeathsig", "KILL", *argv],
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else log,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**environ, "MESH_LOG": "json", "PYTHONUNBUFFERED": "1"},
            )

    def start_module(self, module: str, *argv: str, pipes: bool = False) -> None:
        """Run `python -m module` there."""
        self.start(command(module, *argv), pipes=pipes)

    def reaches(self, other: Host, port: int) -> bool:
        """Whether a connection to a port of another host is made within a second."""
        connect = f"exec 3<>/dev/tcp/{other.address}/{port}"
        argv = ["ip", "netns", "exec", self.namespace, "timeout", "1", "bash", "-c", connect]
        return subprocess.run(argv, capture_output=True, timeout=_LIMIT, check=False).returncode == 0

    def lose_power(self) -> None:
        """End its process, and let nobody hear of that: no reset, no end of a connection."""
        _run("ip", "-n", self._network.switch, "link", "set", self.port, "nomaster")
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate(timeout=_LIMIT)
            self.process = None

    def tail(self, lines: int = 15) -> str:
        """The end of what its programs wrote."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join([f"--- {self.name} ---", *text.splitlines()[-lines:]])


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()}"
