"""Who may enter by name and password: tries that are counted, and the tokens of those who have entered."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

# So many tries fail without a wait; then it doubles with each of them, from one second.
_FREE: Final = 3
_FORGOTTEN: Final = 3600.0
_REMEMBERED: Final = 100_000
_MONTH: Final = 30 * 24 * 3600


@dataclass(slots=True)
class _Tries:
    failed: int
    last: float


class Waits:
    """Growing waits after failures, up to `longest` seconds, for each key. An hour without any: it is forgotten."""

    def __init__(self, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest = longest
        self._clock = clock
        self._tries: OrderedDict[str, _Tries] = OrderedDict()
        self._lock = threading.Lock()

    def left(self, key: str) -> float:
        """Seconds until the next try; 0: it may be now."""
        with self._lock:
            tries = self._tries.get(key)
            if tries is None or tries.failed < _FREE:
                return 0.0
            wait = min(self._longest, 2.0 ** min(tries.failed - _FREE, 30))
            return max(0.0, tries.last + wait - self._clock())

    def failed(self, key: str) -> None:
        """One more failure."""
        now = self._clock()
        with self._lock:
            tries = self._tries.setdefault(key, _Tries(0, now))
            tries.failed = 1 if now - tries.last > _FORGOTTEN else tries.failed + 1
            tries.last = now
            self._tries.move_to_end(key)
            if len(self._tries) > _REMEMBERED:
                self._tries.popitem(last=False)

    def forget(self, key: str) -> None:
        """A success."""
        with self._lock:
            self._tries.pop(key, None)


class TooManyTries(Exception):
    """So many failed that the next one has to wait for `seconds`, even with the right password."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"wait {seconds:.0f} s")
        self.seconds = seconds


class Accounts:
    """Names with passwords. `secret` signs the tokens: who knows it can make some.

    A token holds for a month, through restarts, until the name's password changes.
    """

    def __init__(
        self,
        passwords: Mapping[str, str],
        secret: bytes,
        *,
        clock: Callable[[], float] = time.time,
        waits: Callable[[], float] = time.monotonic,
    ) -> None:
        self._passwords = dict(passwords)
        self._secret = secret
        self._clock = clock
        self._addresses = Waits(900, waits)
        # Shorter, since anybody can make it grow: nobody is kept out by the tries of others for long.
        self._names = Waits(60, waits)

    def enter(self, name: str, password: str, address: str) -> str | None:
        """A token, or None for a wrong name or password: which of them cannot be told, by the time either.

        Raises TooManyTries.
        """
        wait = max(self._addresses.left(address), self._names.left(name))
        if wait:
            raise TooManyTries(wait)
        expected = self._passwords.get(name)
        right = hmac.compare_digest(self._sign(password), self._sign(expected or ""))
        if not right or expected is None:
            self._addresses.failed(address)
            self._names.failed(name)
            return None
        self._names.forget(name)
        return self._token(name, int(self._clock()) + _MONTH)

    def who(self, token: str) -> str | None:
        """The name of a token that holds."""
        name, _, rest = token.partition(".")
        until, _, _ = rest.partition(".")
        if not until.isdecimal() or int(until) < self._clock():
            return None
        try:
            plain = bytes.fromhex(name).decode()
        except ValueError:
            return None
        right = hmac.compare_digest(self._token(plain, int(until)).encode(), token.encode())
        return plain if right and plain in self._passwords else None

    def _token(self, name: str, until: int) -> str:
        head = f"{name.encode().hex()}.{until}"
        signed = self._sign(f"{head}.{self._passwords.get(name, '')}")
        return f"{head}.{signed.hex()}"

    def _sign(self, text: str) -> bytes:
        return hmac.new(self._secret, text.encode("utf-8", "replace"), hashlib.sha256).digest()
