"""Keeps a worker's record in etcd, from a thread of its own, whatever happens to etcd.

The thread has its own event loop, so that a busy or blocked main loop (a long load, a garbage collection, a handler
that computes) does not cost the worker its lease. See `endpoint.ThreadedEndpoint` for the gRPC stack it uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mesh.errors import MeshError, invalid, out_of_range
from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.log import kv
from mesh.registry.backoff import Backoff
from mesh.registry.client import EtcdCalls
from mesh.registry.endpoint import ThreadedEndpoint
from mesh.registry.errors import EtcdError
from mesh.registry.options import EtcdOptions
from mesh.registry.records import WORKERS_PREFIX, decode, encode, key_for, supersedes
from mesh.v1.registry_pb2 import WorkerRecord

log = logging.getLogger(__name__)

# After a lost connection all workers ask etcd at once whether it still knows them: spread over this many seconds.
_SPREAD_SECONDS = 0.5
# The last goodbye is worth no more: the lease ends by itself.
_REVOKE_SECONDS = 2.0


@dataclass
class _Lease:
    id: int
    # When it ends unless renewed (monotonic), counted from when the request was sent: etcd counts from later.
    until: float


class _Superseded(Exception):
    """Another process holds the key under our worker id."""


class Announcer:
    """Registers one worker, and again whenever etcd has forgotten it, until `stop`.

    A loop: make a lease; write the record under it unless it is there already (one transaction, which also heals a
    key that someone deleted); renew every third of `ttl` seconds. Lease gone: start again. etcd gone: try again, the
    worker serves on. Methods may be called from any thread; none but `stop` and `wait_registered` waits.
    """

    def __init__(self, etcd: EtcdOptions, record: WorkerRecord, *, ttl: int = 30, prefix: str = WORKERS_PREFIX) -> None:
        if not 2 <= ttl <= 3600:
            raise out_of_range("ttl", ttl, 2, 3600)
        self._etcd = etcd
        self._ttl = ttl
        self._key = key_for(record.worker_id, prefix)
        self._worker_id = record.worker_id
        self._lock = threading.Lock()
        self._record = _copy(record)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._lease: _Lease | None = None
        self._confirmed_until = 0.0
        self._first_time = threading.Event()
        self._last_error: str | None = None

    # --- for the worker, from any thread

    @property
    def registered(self) -> bool:
        """Whether etcd has confirmed our record, under a lease that has not run out since."""
        return time.monotonic() < self._confirmed_until

    @property
    def last_error(self) -> str | None:
        """What went wrong since etcd last confirmed the record; None if nothing did."""
        return self._last_error

    def start(self) -> None:
        """Start the thread; returns at once. Raises MeshError if a certificate file cannot be read."""
        endpoints = [ThreadedEndpoint(self._etcd, target, self._lost) for target in self._etcd.endpoints]
        client = EtcdCalls(self._etcd, endpoints)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, client), name="announcer", daemon=True)
        self._thread.start()

    def wait_registered(self, timeout: float) -> bool:
        """Wait until etcd has confirmed the record for the first time; False after `timeout` seconds without."""
        return self._first_time.wait(timeout)

    def update(self, record: WorkerRecord) -> None:
        """Replace the record; it is written at once. Raises MeshError if it is another worker's."""
        if record.worker_id != self._worker_id:
            raise invalid("worker_id", f"'worker_id' must stay {self._worker_id!r}, not become {record.worker_id!r}")
        with self._lock:
            self._record = _copy(record)
        self._soon(self._wake.set)

    def stop(self, timeout: float = 5.0) -> None:
        """Give the lease back, which deletes the key, and end the thread; waits `timeout` seconds at most."""
        if self._thread is not None:
            self._soon(self._stopped.set)
            self._thread.join(timeout)

    def _soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call it in the thread's loop, if that is there (still)."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended
                self._loop.call_soon_threadsafe(callback, *args)

    # --- in the thread

    def _run(self, loop: asyncio.AbstractEventLoop, client: EtcdCalls[ThreadedEndpoint]) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._main(client))

    async def _main(self, client: EtcdCalls[ThreadedEndpoint]) -> None:
        async with client, asyncio.TaskGroup() as group:
            holding = group.create_task(self._hold(client))
            await self._stopped.wait()
            holding.cancel()
            self._confirmed_until = 0.0
            await self._give_back(client)

    def _lost(self) -> None:
        # etcd may be back in a moment, but empty: waiting for the next renewal would leave us unlisted until then.
        if self._loop is not None:
            self._soon(self._loop.call_later, random.uniform(0, _SPREAD_SECONDS), self._wake.set)

    async def _hold(self, etcd: EtcdCalls[ThreadedEndpoint]) -> None:
        backoff = Backoff()
        while True:
            self._wake.clear()
            try:
                wait = await self._once(etcd, backoff)
            except EtcdError as error:
                self._complain(str(error))
                wait = self._retry_in(backoff)
            except Exception as error:
                # A mistake of ours must not end the loop: a worker that serves would be lost to all gateways.
                log.exception("registration failed", extra=kv(key=self._key))
                self._last_error = repr(error)
                wait = backoff.most
            # Not wait_for: before Python 3.12 it loses a cancel that comes together with the wake.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def _once(self, etcd: EtcdCalls[ThreadedEndpoint], backoff: Backoff) -> float:
        """One round: renew and write. Returns the seconds until the next."""
        self._lease = await self._renewed(etcd, self._lease)
        if self._lease is None:
            return 0.0
        try:
            if not await self._written(etcd, self._lease):
                return backoff.next()
        except _Superseded as error:
            self._confirmed_until = 0.0
            self._complain(str(error))
            return self._ttl / 3
        self._confirm(self._lease)
        backoff.reset()
        return self._ttl / 3

    async def _renewed(self, etcd: EtcdCalls[ThreadedEndpoint], lease: _Lease | None) -> _Lease | None:
        """The lease with its whole time again, a new one if there was none, or None if etcd has lost it."""
        sent = time.monotonic()
        limit = self._limit()
        if lease is None:
            return _Lease(await etcd.grant(self._ttl, timeout=limit), sent + self._ttl)
        left = await etcd.renew(lease.id, timeout=limit)
        if not left:
            log.warning("etcd has lost the lease, registering again", extra=kv(key=self._key))
            return None
        lease.until = sent + left
        return lease

    async def _written(self, etcd: EtcdCalls[ThreadedEndpoint], lease: _Lease) -> bool:
        """Make the key hold our record under our lease, unless it does already.

        False if someone wrote the key at the same moment; raises _Superseded if it is a later process's.
        """
        with self._lock:
            record = _copy(self._record)
        key, value = self._key.encode(), encode(record)
        ours = [
            pb.Compare(key=key, target=pb.Compare.LEASE, result=pb.Compare.EQUAL, lease=lease.id),
            pb.Compare(key=key, target=pb.Compare.VALUE, result=pb.Compare.EQUAL, value=value),
        ]
        read = pb.RequestOp(request_range=pb.RangeRequest(key=key))
        found = await etcd.txn(ours, failure=[read], timeout=self._limit())
        if found.succeeded:
            return True
        kvs = found.responses[0].response_range.kvs
        if kvs and kvs[0].lease != lease.id:
            _refuse_if_superseded(kvs[0].value, record)
        unchanged = pb.Compare(
            key=key,
            target=pb.Compare.MOD,
            result=pb.Compare.EQUAL,
            mod_revision=kvs[0].mod_revision if kvs else 0,
        )
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease.id))
        written = await etcd.txn([unchanged], success=[put], timeout=self._limit())
        return written.succeeded

    def _confirm(self, lease: _Lease) -> None:
        if not self.registered:
            log.info("registered", extra=kv(key=self._key, lease=f"{lease.id:x}", ttl=self._ttl))
        self._confirmed_until = lease.until
        self._last_error = None
        self._first_time.set()

    def _complain(self, error: str) -> None:
        level = logging.DEBUG if self._last_error else logging.WARNING
        self._last_error = error
        log.log(level, "cannot register, trying again", extra=kv(key=self._key, error=error))

    def _limit(self) -> float:
        """Seconds for one call: several fit into the life of a lease."""
        return min(self._etcd.timeout, max(self._ttl / 6, 0.5))

    def _retry_in(self, backoff: Backoff) -> float:
        """The next wait after an error, and no more than half of what the lease has left, lest it runs out."""
        wait = backoff.next()
        left = self._lease.until - time.monotonic() if self._lease is not None else 0.0
        return min(wait, left / 2) if left > backoff.first else wait

    async def _give_back(self, etcd: EtcdCalls[ThreadedEndpoint]) -> None:
        if self._lease is None:
            return
        try:
            await etcd.revoke(self._lease.id, timeout=min(_REVOKE_SECONDS, self._etcd.timeout))
        except EtcdError as error:
            log.warning("could not give the lease back, it ends by itself", extra=kv(key=self._key, error=str(error)))


def _copy(record: WorkerRecord) -> WorkerRecord:
    copy = WorkerRecord()
    copy.CopyFrom(record)
    return copy


def _refuse_if_superseded(value: bytes, record: WorkerRecord) -> None:
    try:
        other = decode(value)
    except MeshError:
        return  # whatever it is, it is no worker's
    if other.incarnation != record.incarnation and supersedes(other, record):
        raise _Superseded(
            f"the worker id {record.worker_id!r} is used by another process, at {other.address}, that started later"
        )
