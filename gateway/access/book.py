"""All keys as this gateway knows them: a mirror of the store, with an account for each."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from gateway.access.account import Account
from mesh.errors import ErrorKind, MeshError
from mesh.keys import Key, Usage, digest, id_of


class Book:
    """Hears of keys from the store, and of requests under way from the other gateways. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.loaded = False
        self.accounts: dict[str, Account] = {}
        self._clock = clock
        # Also of keys that have not been told yet.
        self._usage: dict[str, Usage] = {}
        self._elsewhere: dict[str, Mapping[str, int]] = {}

    def account(self, key_id: str) -> Account:
        """The account of a key for which the gateway itself asks. Raises invalid_api_key if there is none any more."""
        if not self.loaded:
            raise MeshError(ErrorKind.NO_WORKER, "this gateway has not read the API keys yet", retry_after=1.0)
        account = self.accounts.get(key_id)
        if account is None or account.key.expired(datetime.now(UTC)):
            raise MeshError(ErrorKind.INVALID_API_KEY, "the API key is not valid any more")
        return account

    def authenticate(self, text: str | None) -> Account:
        """The account of a key's text. Raises invalid_api_key, without a word on what was wrong with it."""
        if text is None:
            text = "an API key is needed: 'authorization: Bearer KEY' or 'x-api-key: KEY'"
            raise MeshError(ErrorKind.INVALID_API_KEY, text)
        if not self.loaded:
            raise MeshError(ErrorKind.NO_WORKER, "this gateway has not read the API keys yet", retry_after=1.0)
        account = self.accounts.get(id_of(text) or "")
        if account is None or not hmac.compare_digest(digest(text), account.key.hash):
            raise MeshError(ErrorKind.INVALID_API_KEY, "the API key is not valid here")
        if account.key.expired(datetime.now(UTC)):
            text = f"the API key has expired, at {account.key.expires_at}"
            raise MeshError(ErrorKind.INVALID_API_KEY, text)
        return account

    def on_key(self, key_id: str, key: Key | None) -> None:
        """See mesh.keys.Listener."""
        account = self.accounts.get(key_id)
        if key is None:
            self.accounts.pop(key_id, None)
            self._usage.pop(key_id, None)
        elif account is not None:
            account.change(key, self._clock())
        else:
            self.accounts[key_id] = Account(key, self._clock(), others=self._usage.get(key_id))
            self._count_elsewhere()

    def on_usage(self, key_id: str, total: Usage) -> None:
        """See mesh.keys.Listener."""
        self._usage[key_id] = total
        account = self.accounts.get(key_id)
        if account is not None:
            account.reported(total, self._clock())

    def on_loaded(self) -> None:
        """See mesh.keys.Listener."""
        self.loaded = True

    def on_streams(self, gateway: str, streams: Mapping[str, int] | None) -> None:
        """How many requests of which keys another gateway has under way; None when it is gone."""
        if streams is None:
            self._elsewhere.pop(gateway, None)
        else:
            self._elsewhere[gateway] = streams
        self._count_elsewhere()

    def collect(self) -> None:
        """Charge what requests under way have used."""
        now = self._clock()
        for account in self.accounts.values():
            account.collect(now)

    def streams(self) -> dict[str, int]:
        """Requests under way here, by key."""
        return {key_id: account.live for key_id, account in self.accounts.items() if account.live}

    def _count_elsewhere(self) -> None:
        for key_id, account in self.accounts.items():
            account.elsewhere = sum(streams.get(key_id, 0) for streams in self._elsewhere.values())
