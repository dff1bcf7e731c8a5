"""Where keys are kept: the interface, and the store in etcd.

In etcd, beside the workers, all values JSON that people can read:

    /mesh/v1/keys/<id>        the key
    /mesh/v1/usage/<id>       what it has used, over all gateways
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from mesh.errors import ErrorKind, MeshError
from mesh.keys.key import Key, Usage, decode_key, decode_usage, encode
from mesh.log import kv
from mesh.registry import EtcdClient, EtcdError, mirror, prefix_end

log = logging.getLogger(__name__)
T = TypeVar("T")

KEYS_PREFIX = "/mesh/v1/keys/"
USAGE_PREFIX = "/mesh/v1/usage/"
# Others write a key's usage too: how often to try again before it waits for the next round.
_TRIES = 10


class Listener(Protocol):
    """Hears of keys and their usage. Methods are quick and do not wait."""

    def on_key(self, key_id: str, key: Key | None) -> None:
        """A key was made, or revoked (None)."""
        ...

    def on_usage(self, key_id: str, total: Usage) -> None:
        """What a key has used, over all gateways."""
        ...

    def on_loaded(self) -> None:
        """All keys that there are have been told."""
        ...


class Store(Protocol):
    """Keeps keys. Methods raise MeshError where the store cannot be reached."""

    async def list(self) -> list[tuple[Key, Usage]]:
        """All keys, by id."""
        ...

    async def create(self, key: Key) -> None:
        """Keep a new key."""
        ...

    async def revoke(self, key_id: str) -> bool:
        """Forget a key and its usage; False if there is none."""
        ...

    async def add_usage(self, key_id: str, usage: Usage) -> None:
        """Add to what a key has used; nothing is kept of one that was revoked. What failed may have happened."""
        ...

    async def follow(self, listener: Listener) -> None:
        """Tell of all keys and of every change, for ever."""
        ...


class EtcdKeys:
    """The store in etcd, or in the embedded registry."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def list(self) -> list[tuple[Key, Usage]]:
        """See Store."""
        keys = await self._range(KEYS_PREFIX, decode_key)
        usage = await self._range(USAGE_PREFIX, decode_usage)
        return [(key, usage.get(key_id, Usage())) for key_id, key in sorted(keys.items())]

    async def create(self, key: Key) -> None:
        """See Store."""
        await _refused(self._client.put((KEYS_PREFIX + key.id).encode(), encode(key)))

    async def revoke(self, key_id: str) -> bool:
        """See Store."""
        found = await _refused(self._client.delete_range((KEYS_PREFIX + key_id).encode()))
        await _refused(self._client.delete_range((USAGE_PREFIX + key_id).encode()))
        return bool(found)

    async def add_usage(self, key_id: str, usage: Usage) -> None:
        """See Store."""
        where = (USAGE_PREFIX + key_id).encode()
        for _ in range(_TRIES):
            found = (await _refused(self._client.range(where))).kvs
            before = decode_usage(found[0].value) if found else Usage()
            if not found and not (await _refused(self._client.range((KEYS_PREFIX + key_id).encode()))).kvs:
                return
            revision = found[0].mod_revision if found else 0
            if await _refused(self._client.put_if_unchanged(where, encode(before + usage), revision)):
                return
        raise MeshError(ErrorKind.OVERLOADED, f"the usage of the key {key_id} is written by too many at once")

    async def follow(self, listener: Listener) -> None:
        """See Store."""

        def on_key(name: str, value: bytes | None) -> None:
            key_id = name.removeprefix(KEYS_PREFIX)
            # What cannot be read allows nothing: a key that was there must not outlive its record.
            key = None if value is None else _read(name, value, decode_key)
            listener.on_key(key_id, key if key is not None and key.id == key_id else None)

        def on_usage(name: str, value: bytes | None) -> None:
            usage = None if value is None else _read(name, value, decode_usage)
            if usage is not None:
                listener.on_usage(name.removeprefix(USAGE_PREFIX), usage)

        def on_state(connected: bool) -> None:
            if connected:
                listener.on_loaded()

        counted = asyncio.Event()

        async def follow_keys() -> None:
            # Behind the usage: what is told of a known key's usage was used now, and counts against its minute.
            await counted.wait()
            await mirror(self._client, KEYS_PREFIX, on_key, on_state=on_state)

        def on_counted(complete: bool) -> None:
            if complete:
                counted.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(mirror(self._client, USAGE_PREFIX, on_usage, on_state=on_counted))
            group.create_task(follow_keys())

    async def _range(self, prefix: str, decode: Callable[[bytes], T]) -> dict[str, T]:
        listing = await _refused(self._client.range(prefix.encode(), prefix_end(prefix.encode())))
        names = ((item.key.decode(errors="backslashreplace"), item.value) for item in listing.kvs)
        found = {name.removeprefix(prefix): _read(name, value, decode) for name, value in names}
        return {key_id: value for key_id, value in found.items() if value is not None}


def _read(name: str, value: bytes, decode: Callable[[bytes], T]) -> T | None:
    try:
        return decode(value)
    except MeshError as error:
        log.warning("skipped a key of the registry", extra=kv(key=name, why=error.message))
        return None


async def _refused(call: Awaitable[T]) -> T:
    """What etcd says, as an error that may leave."""
    try:
        return await call
    except EtcdError as error:
        kind = ErrorKind.UNAUTHORIZED if error.denied else ErrorKind.INVALID_REQUEST
        raise MeshError(kind, f"the keys cannot be reached: {error}") from None
