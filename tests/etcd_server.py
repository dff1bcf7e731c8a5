"""The benchmarks' etcd for tests, which are skipped where there is none; keys as etcdctl sees them; certificates."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.processes import ProcessFailed
from benchmarks.systems import etcd_server
from mesh.wire import Tls

__all__ = ["EtcdServer", "etcdctl", "etcdctl_keys", "find_binary", "make_certificates"]


def find_binary(name: str) -> Path:
    """The path of `etcd` or `etcdctl`; skips the test if there is none."""
    try:
        return etcd_server.find_binary(name)
    except etcd_server.EtcdMissing as error:
        pytest.skip(str(error))


class EtcdServer(etcd_server.EtcdServer):
    """One etcd process; skips the test if there is none."""

    def spawn(self, *, empty: bool = False) -> None:
        """See the benchmarks' own."""
        find_binary("etcd")
        super().spawn(empty=empty)


def etcdctl(url: str, *arguments: str, given: str = "") -> str:
    """What `etcdctl` prints, with `given` on its standard input; a failure is one of the test, or a "not yet"."""
    try:
        return etcd_server.etcdctl(url, *arguments, given=given)
    except ProcessFailed as error:
        raise AssertionError(str(error)) from None


def etcdctl_keys(url: str, prefix: str) -> dict[str, str]:
    """Keys and values below a prefix, as `etcdctl` sees them."""
    answer = json.loads(etcdctl(url, "get", "--prefix", prefix, "-w", "json"))
    decoded = (
        {part: base64.b64decode(kv.get(part, "")).decode() for part in ("key", "value")} for kv in answer.get("kvs", [])
    )
    return {kv["key"]: kv["value"] for kv in decoded}


def make_certificates(folder: Path, days: int = 2) -> Tls:
    """An authority and a certificate for 127.0.0.1 that both sides may use, for so many days; made with openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, ca, key, request, cert = (
        folder / name for name in ("ca.key", "ca.pem", "host.key", "host.csr", "host.pem")
    )
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-subj", "/CN=test authority", "-days", "2")
    _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=test host")
    signing = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", str(days), "-extfile", extensions]
    _openssl("x509", "-req", "-in", request, "-out", cert, *signing)
    return Tls(ca=ca, cert=cert, key=key)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
