"""Gateways that share only etcd keep the limits of a key together.

Twice a second each gateway adds to the store what it has charged, and hears what the others have added, which is taken
from the same buckets here. So each gateway knows what the others did until about a second ago: a limit is overrun by at
most what they let begin in that time, and the debt is paid before anything else begins. While etcd is away each gateway
holds the limits by itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Mapping

import msgspec

from gateway.access.account import Account
from gateway.access.book import Book
from mesh.errors import MeshError
from mesh.keys import Store
from mesh.log import kv
from mesh.registry import EtcdClient, EtcdError, mirror

log = logging.getLogger(__name__)

STREAMS_PREFIX = "/mesh/v1/streams/"  # + gateway: {"<key id>": requests under way}, under a lease
_SYNC_SECONDS = 0.5
# A gateway that was killed counts for so long.
_LEASE_SECONDS = 10
_LAST_WRITE_SECONDS = 2.0


class Sync:
    """Keeps a book and the store at one. `run` until cancelled, then `close`."""

    def __init__(self, book: Book, store: Store, etcd: EtcdClient) -> None:
        self._book = book
        self._store = store
        self._etcd = etcd
        self._gateway = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._complained = False
        # The latest round of writing. Nobody cancels it: of what it has begun to write it is not known what happened.
        self._writing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._store.follow(self._book))
            group.create_task(mirror(self._etcd, STREAMS_PREFIX, self._on_streams))
            group.create_task(self._write_usage())
            group.create_task(self._write_streams())

    async def close(self) -> None:
        """Write what has not been written; what is being written comes to its end."""
        try:
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                if self._writing is not None:
                    await self._writing
                await self._flush()
        except TimeoutError:
            log.warning("the usage of the last moments is lost: the store does not answer")

    # Usage

    async def _write_usage(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            self._writing = asyncio.create_task(self._flush())
            await asyncio.shield(self._writing)  # until `close`

    async def _flush(self) -> None:
        self._book.collect()
        for account in list(self._book.accounts.values()):
            await self._add(account)

    async def _add(self, account: Account) -> None:
        usage = account.unwritten
        if not usage.requests and not usage.tokens:
            return
        # Before the store has it, so that its report is not taken for somebody else's usage.
        account.written += usage
        try:
            await self._store.add_usage(account.key.id, usage)
        except MeshError as error:
            account.written -= usage
            if not self._complained:
                self._complained = True
                log.warning("usage of keys cannot be written, going on", extra=kv(why=error.message))
        else:
            self._complained = False

    # Requests under way

    async def _write_streams(self) -> None:
        lease, told = 0, None
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            streams = self._book.streams()
            try:
                if not lease or not await self._etcd.renew(lease):
                    lease, told = await self._etcd.grant(_LEASE_SECONDS), None
                if streams != told:
                    key = (STREAMS_PREFIX + self._gateway).encode()
                    await self._etcd.put(key, msgspec.json.encode(streams), lease=lease)
                    told = streams
            except EtcdError as error:
                log.debug("requests under way cannot be told to other gateways", extra=kv(why=str(error)))
                told = None

    def _on_streams(self, name: str, value: bytes | None) -> None:
        gateway = name.removeprefix(STREAMS_PREFIX)
        if gateway != self._gateway:
            self._book.on_streams(gateway, None if value is None else _read(value))


def _read(value: bytes) -> Mapping[str, int] | None:
    try:
        return msgspec.json.decode(value, type=dict[str, int])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
