"""A local copy of a prefix of etcd, kept up to date for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import grpc

from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.log import kv
from mesh.registry.backoff import Backoff
from mesh.registry.client import EtcdClient, prefix_end
from mesh.registry.errors import EtcdError, EtcdUnavailable

log = logging.getLogger(__name__)

OnChange = Callable[[str, bytes | None], None]
OnState = Callable[[bool], None]

# A watch that lived this long was no failed attempt.
_LIVED_SECONDS = 5.0


async def mirror(
    client: EtcdClient,
    prefix: str,
    on_change: OnChange,
    *,
    on_state: OnState | None = None,
    quiet: float = 5.0,
) -> None:
    """Call `on_change(key, value)` for each key below the prefix and for each change (value None: gone), for ever.

    Only differences are reported: after any break everything is listed again and compared with what was known, and a
    value that is written once more is no news. `on_state(True)` follows each complete listing, `on_state(False)`
    each loss of it; what was known stays known meanwhile. `quiet` is in seconds: see `EtcdClient.watch`.
    Ends by cancellation, or by what a callback raises.
    """
    copy = _Copy(prefix.encode(), on_change)
    health = _Health(f"etcd at {client.options.where}", prefix, on_state)
    backoff = Backoff()
    while True:
        try:
            await _follow(client, copy, health, quiet)
        except EtcdError as error:
            if health.lost(error) > _LIVED_SECONDS:
                backoff.reset()
        await asyncio.sleep(backoff.next())


async def _follow(client: EtcdClient, copy: _Copy, health: _Health, quiet: float) -> None:
    """Make the copy complete and keep it so; raises EtcdError when that is no longer certain."""
    first, end = copy.prefix, prefix_end(copy.prefix)
    # The watch stands before the listing is made: so nothing can happen between the two, neither a change nor a
    # compaction nor another, emptied store in etcd's place, which "list, then watch from there" would miss.
    async with client.watch(first, end, quiet=quiet) as changes:
        listing = await client.range(first, end)
        revision = listing.header.revision
        if revision < changes.revision:
            raise EtcdUnavailable(grpc.StatusCode.UNAVAILABLE, "the listing is older than the watch")
        copy.replace(listing.kvs)
        health.synced(len(listing.kvs))
        async for events in changes:
            copy.apply(event for event in events if event.kv.mod_revision > revision)


class _Health:
    """Whether the copy is complete; tells the owner and the log when that changes."""

    def __init__(self, etcd: str, prefix: str, on_state: OnState | None) -> None:
        self._facts = {"etcd": etcd, "prefix": prefix}
        self._on_state = on_state
        self._since: float | None = None
        self._complained = False

    def synced(self, keys: int) -> None:
        """A listing was taken over."""
        self._since = time.monotonic()
        self._complained = False
        log.info("the registry is mirrored", extra=kv(**self._facts, keys=keys))
        if self._on_state is not None:
            self._on_state(True)

    def lost(self, error: EtcdError) -> float:
        """It broke, or could not be made complete; returns for how many seconds it was."""
        lived = 0.0 if self._since is None else time.monotonic() - self._since
        was_synced, self._since = self._since is not None, None
        if not self._complained:
            self._complained = True
            log.warning(
                "the registry is out of reach, going on with what is known", extra=kv(**self._facts, error=str(error))
            )
        if was_synced and self._on_state is not None:
            self._on_state(False)
        return lived


class _Copy:
    """The keys and values as last reported."""

    def __init__(self, prefix: bytes, on_change: OnChange) -> None:
        self.prefix = prefix
        self._values: dict[bytes, bytes] = {}
        self._on_change = on_change

    def replace(self, kvs: Iterable[pb.KeyValue]) -> None:
        """Take a whole listing."""
        listed = {item.key: item.value for item in kvs}
        for key in self._values.keys() - listed.keys():
            self._delete(key)
        for key, value in listed.items():
            self._put(key, value)

    def apply(self, events: Iterable[pb.Event]) -> None:
        """Take changes, in order."""
        for event in events:
            if event.type == pb.Event.PUT:
                self._put(event.kv.key, event.kv.value)
            else:
                self._delete(event.kv.key)

    def _put(self, key: bytes, value: bytes) -> None:
        if self._values.get(key) != value:
            self._values[key] = value
            self._on_change(_text(key), value)

    def _delete(self, key: bytes) -> None:
        if self._values.pop(key, None) is not None:
            self._on_change(_text(key), None)


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
