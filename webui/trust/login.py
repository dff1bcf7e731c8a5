"""People whom a proxy in front has logged in (OpenID Connect, say): their name is in a header of each request."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeaderLogin:
    """The name of the header, and the networks of the proxies that may set it: from elsewhere it proves nothing."""

    header: str
    proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128")

    def __post_init__(self) -> None:
        for network in self.proxies:
            ipaddress.ip_network(network)  # raises ValueError with the network in its message

    def person(self, peer: str, headers: Mapping[str, str]) -> str | None:
        """Who asks, or None. `peer` is the address of the connection itself, not one that a header tells."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return None
        if not any(address in ipaddress.ip_network(network) for network in self.proxies):
            return None
        name = next((value for key, value in headers.items() if key.lower() == self.header.lower()), "")
        return name.strip() or None
