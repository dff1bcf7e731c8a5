"""How much one visitor may ask: token buckets and daily counts, in the memory of this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

# Keys that are remembered; the ones unused for longest go first, whose buckets are full again anyway.
_REMEMBERED = 100_000
_DAY = 86_400
# Behind one address there are many visitors: so many times what one of them may.
ADDRESS_FACTOR: Final = 5


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Buckets:
    """A bucket of `burst` tokens for each key, into which `per_minute` fall. Safe to use from several threads."""

    def __init__(self, per_minute: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, *keys: str, amount: float = 1) -> float:
        """Take tokens for each key, or none at all: 0, or the seconds after which there would be enough for all."""
        now = self._clock()
        with self._lock:
            buckets = [self._bucket(key, now) for key in dict.fromkeys(keys)]
            lacking = max(amount - bucket.tokens for bucket in buckets)
            if lacking > 1e-9:
                return lacking / self._per_second
            for bucket in buckets:
                bucket.tokens -= amount
        return 0.0

    def _bucket(self, key: str, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        self._buckets.move_to_end(key)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket


class Quota:
    """Buckets of visitors, and larger ones of the networks that they are in."""

    def __init__(self, per_minute: float, burst: float, factor: int = ADDRESS_FACTOR) -> None:
        self._visitors = Buckets(per_minute, burst)
        self._networks = Buckets(per_minute * factor, burst * factor)

    def take(self, visitor: str, address: str, amount: float = 1) -> float:
        """0, or the seconds after which there would be enough of both."""
        return self._visitors.take(visitor, amount=amount) or self._networks.take(address, amount=amount)


class DailyCount:
    """So many times a day (UTC) for each key. Safe to use from several threads."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._clock = clock
        self._day = -1
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, *keys: str) -> float:
        """Count once for each key, or for none: 0, or the seconds until the next day."""
        now = self._clock()
        with self._lock:
            if int(now // _DAY) != self._day:
                self._day, self._counts = int(now // _DAY), {}
            if any(self._counts.get(key, 0) >= self._limit for key in keys):
                return self.tomorrow()
            for key in dict.fromkeys(keys):
                self._counts[key] = self._counts.get(key, 0) + 1
        return 0.0

    def tomorrow(self) -> float:
        """The seconds until the next day."""
        return _DAY - self._clock() % _DAY


def network(address: str) -> str:
    """What counts as one address: of IPv6 the /64, all of which one machine may have."""
    try:
        return str(ip_network((address, 64), strict=False)) if ip_address(address).version == 6 else address
    except ValueError:  # a socket of Unix, or what a proxy says that knows no better
        return address


def waiting(seconds: float) -> str:
    """How long that is, for people: `30 s`, `12 min`, `5 h`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.0f} h"
