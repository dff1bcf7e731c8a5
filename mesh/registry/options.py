"""Where etcd is and how to get in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from mesh.errors import MeshError, invalid
from mesh.wire import Tls

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """One etcd (cluster).

    endpoints: host:port of each member; calls go to one and fail over to the next.
    tls: None speaks plain text. user, password: for an etcd with `auth enable`.
    timeout: seconds that one attempt at one endpoint may take.
    """

    endpoints: tuple[str, ...]
    tls: Tls | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 5.0

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout: float = 5.0,
    ) -> EtcdOptions:
        """Read `http://host:port`, `https://host:port` or `host:port`, several of them comma separated.

        Without a scheme TLS is used if a certificate file is given. Port 2379 if there is none. Raises MeshError
        (invalid_request) for anything else, for http with certificate files, and for a half of a pair.
        """
        parts = [part.strip() for part in url.split(",") if part.strip()]
        if not parts:
            raise invalid("etcd", "'etcd' needs at least one endpoint, such as http://127.0.0.1:2379")
        parsed = [_endpoint(part) for part in parts]
        schemes = {scheme for scheme, _ in parsed if scheme}
        files = any((ca, cert, key))
        if len(schemes) > 1 or (files and "http" in schemes):
            raise invalid("etcd", f"'etcd' must use https for every endpoint or for none, and for certificates: {url}")
        _both("certificate", cert, "key", key)
        _both("user", user, "password", password)
        secure = files or "https" in schemes
        return cls(
            endpoints=tuple(target for _, target in parsed),
            tls=Tls(ca=ca, cert=cert, key=key) if secure else None,
            user=user,
            password=password,
            timeout=timeout,
        )

    @property
    def where(self) -> str:
        """The endpoints, for people."""
        return ", ".join(self.endpoints)


def _endpoint(text: str) -> tuple[str, str]:
    """Scheme ("" if there is none) and host:port."""
    scheme, separator, rest = text.rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError as error:
        raise invalid("etcd", f"'etcd' has an endpoint that is not host:port: {text} ({error})") from None
    if (separator and scheme not in ("http", "https")) or not host or parts.username or parts.query or parts.fragment:
        raise invalid("etcd", f"'etcd' must be http://host:port, https://host:port or host:port, not {text}")
    if parts.path not in ("", "/"):
        raise invalid("etcd", f"'etcd' endpoints have no path: {text}")
    return scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _both(name: str, value: object, other: str, partner: object) -> None:
    if (value is None) != (partner is None):
        missing = name if value is None else other
        raise invalid("etcd", f"etcd's {name} and {other} must be given together: the {missing} is missing")


def host_of(address: str) -> str:
    """The host of host:port, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether the host is this machine's loopback by its spelling; names are not looked up, as others may differ."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_advertised(address: str, etcd: EtcdOptions) -> None:
    """Refuse an address that others, who read it in etcd, could not reach. Raises MeshError (invalid_request).

    Loopback is fine as long as every endpoint of etcd is loopback too: then all are on this machine.
    """
    host = host_of(address)
    if not host:
        raise _unreachable(address, "it must be host:port")
    if host in ("0.0.0.0", "::", "*"):
        raise _unreachable(address, "it is an address to listen on, not one to connect to")
    remote = [endpoint for endpoint in etcd.endpoints if not is_loopback(host_of(endpoint))]
    if is_loopback(host) and remote:
        raise _unreachable(address, f"it is loopback, while etcd ({remote[0]}) is not on this machine")


def _unreachable(address: str, why: str) -> MeshError:
    return invalid(
        "advertise_address",
        f"the advertised address {address} cannot be reached by others: {why}; give the host:port that they should use",
    )
