"""Certificates: whether they can be read, fit their keys, and are valid for some time."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from pathlib import Path

from mesh.cli.doctor.finding import Finding
from mesh.errors import MeshError
from mesh.wire import Tls, check_pair, not_after

_SOON_DAYS = 14
_DAY = 86400


def certificates(files: Iterable[Path], *, now: float | None = None) -> list[Finding]:
    """What is wrong with the PEM files; only the first certificate of each is looked at."""
    found = [_certificate(file, time.time() if now is None else now) for file in files]
    return found or [Finding("certificates", "skip", "none was named: --tls-cert, --tls-ca, --etcd-ca, or a --config")]


def _certificate(file: Path, now: float) -> Finding:
    try:
        until = not_after(file)
    except (OSError, ssl.SSLError, ValueError) as error:
        why = str(error).splitlines()[0]
        return Finding("certificates", "fail", f"{file} is no certificate: {why}", "give a PEM file")
    days = (until - now) / _DAY
    date = time.strftime("%Y-%m-%d", time.gmtime(until))
    if days < 0:
        return Finding("certificates", "fail", f"{file} expired on {date}", "replace it; it is read again while we run")
    if days < _SOON_DAYS:
        return Finding("certificates", "warn", f"{file} expires on {date}, in {days:.0f} days", "replace it before")
    return Finding("certificates", "ok", f"{file} is valid until {date}")


def pairs(given: Iterable[tuple[Path, Path]]) -> list[Finding]:
    """Certificates and keys that do not fit each other."""
    found: list[Finding] = []
    for cert, key in given:
        try:
            check_pair(Tls(cert=cert, key=key))
        except MeshError as error:
            found.append(Finding("certificates", "fail", error.message, "give the key of that certificate"))
    return found
