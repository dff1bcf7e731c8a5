"""The leases of the embedded registry: who has how long, and which keys hang on it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from mesh.registry.embedded.refusal import Refusal, no_lease

# etcd's limits, in seconds.
MIN_TTL = 2
MAX_TTL = 9_000_000_000


@dataclass
class Lease:
    """`ttl` in seconds, `until` on the clock of the book."""

    id: int
    ttl: int
    until: float
    keys: set[bytes] = field(default_factory=set[bytes])


class Leases:
    """The book of leases; ending one and deleting its keys is the store's business."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[int, Lease] = {}

    def grant(self, ttl: int, lease: int = 0) -> Lease:
        """Make a lease, with an id of our choice if `lease` is 0; a TTL below the least is made longer."""
        if ttl > MAX_TTL:
            raise Refusal(grpc.StatusCode.OUT_OF_RANGE, "too large lease TTL")
        if lease in self._leases:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "lease already exists")
        while not lease or lease in self._leases:
            lease = random.getrandbits(63)
        ttl = max(ttl, MIN_TTL)
        made = self._leases[lease] = Lease(lease, ttl, self._clock() + ttl)
        return made

    def find(self, lease: int) -> Lease:
        """The lease; raises Refusal if there is none."""
        found = self._leases.get(lease)
        if found is None:
            raise no_lease()
        return found

    def renew(self, lease: int) -> int:
        """Give it its whole time again; returns the seconds, 0 if there is no such lease."""
        found = self._leases.get(lease)
        if found is None:
            return 0
        found.until = self._clock() + found.ttl
        return found.ttl

    def left(self, lease: Lease) -> int:
        """Whole seconds until it ends."""
        return int(lease.until - self._clock())

    def remove(self, lease: int) -> None:
        """Strike it out."""
        self._leases.pop(lease, None)

    def attach(self, lease: int, key: bytes) -> None:
        """The key goes with the lease (0: with none)."""
        if lease:
            self.find(lease).keys.add(key)

    def detach(self, lease: int, key: bytes) -> None:
        """The key does not go with the lease any more."""
        if lease in self._leases:
            self._leases[lease].keys.discard(key)

    def expired(self) -> list[int]:
        """The leases whose time is over."""
        now = self._clock()
        return [lease.id for lease in self._leases.values() if lease.until <= now]

    def forgive(self, seconds: float) -> None:
        """Give every lease so much more: nobody could renew while the whole process stood still."""
        for lease in self._leases.values():
            lease.until += seconds

    def ids(self) -> list[int]:
        """All leases, in the order of their making."""
        return list(self._leases)
