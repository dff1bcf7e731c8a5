"""The data of the embedded registry: keys, revisions, a bounded history and leases, with etcd's meaning.

Pure: no gRPC, no clock but the one of its leases. A request is checked whole before the first change, so that nothing
has to be undone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import islice

import grpc

from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry.embedded.leases import Leases
from mesh.registry.embedded.refusal import Refusal, bad_request, compacted, in_future

# That of the first write; an empty store is at the revision before.
FIRST_REVISION = 2
# As etcd's default limit for one request.
MAX_REQUEST_BYTES = 1536 * 1024


def covers(key: bytes, range_end: bytes, candidate: bytes) -> bool:
    """Whether [key, range_end), in etcd's spelling, has the candidate."""
    if not range_end:
        return candidate == key
    return key <= candidate and (range_end == b"\0" or candidate < range_end)


def between(ordered: list[bytes], key: bytes, range_end: bytes) -> list[bytes]:
    """The keys of an ordered list that are in [key, range_end)."""
    low = bisect_left(ordered, key)
    if not range_end:
        return ordered[low : low + 1] if ordered[low : low + 1] == [key] else []
    return ordered[low:] if range_end == b"\0" else ordered[low : bisect_left(ordered, range_end)]


class Store:
    """Messages in it are never changed once stored: answers may share them.

    max_revisions, max_history_bytes: how much history is kept for reads of the past and slow watchers.
    max_bytes: how much live data.
    """

    def __init__(
        self,
        leases: Leases,
        *,
        max_revisions: int = 10_000,
        max_history_bytes: int = 64 * 1024 * 1024,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.leases = leases
        self.revision = FIRST_REVISION - 1
        self.compact_revision = -1
        self.bytes = 0
        self._max_revisions = max_revisions
        self._max_history_bytes = max_history_bytes
        self._max_bytes = max_bytes
        self._live: dict[bytes, pb.KeyValue] = {}
        self._ordered: list[bytes] = []
        # The events of each revision; the first in the deque is of revision `_oldest`.
        self._log: deque[tuple[pb.Event, ...]] = deque()
        self._oldest = FIRST_REVISION
        self._history_bytes = 0
        self._pending: list[pb.Event] = []
        self._listeners: set[Callable[[], None]] = set()

    # --- reading

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """Answer a range request, of now or of a revision that is still kept, after the checks."""
        live, ordered = self._view(request.revision)
        keys = between(ordered, request.key, request.range_end)
        answer = pb.RangeResponse(count=len(keys))
        answer.header.revision = self._visible_revision
        if request.count_only:
            return answer
        found = [live[key] for key in self._cut_early(request, keys)]
        found = _sorted(request, [item for item in found if _wanted(request, item)])
        if 0 < request.limit < len(found):
            answer.more = True
            found = found[: request.limit]
        answer.kvs.extend(_without_value(item) if request.keys_only else item for item in found)
        return answer

    @staticmethod
    def check_range(request: pb.RangeRequest) -> None:
        """Raise Refusal if the request is none."""
        if not request.key:
            raise bad_request("key is not provided")

    def check_range_now(self, request: pb.RangeRequest) -> None:
        """Raise Refusal if what the request asks for is not kept."""
        if request.revision > self._visible_revision:
            raise in_future()
        if 0 < request.revision < self.compact_revision:
            raise compacted()

    @property
    def _visible_revision(self) -> int:
        # Inside a transaction, its own writes are seen.
        return self.revision + bool(self._pending)

    def _cut_early(self, request: pb.RangeRequest, keys: list[bytes]) -> list[bytes]:
        """etcd applies the limit before it sorts by anything, unless asked for an order or a filter."""
        whole = request.sort_order != pb.RangeRequest.NONE or _has_filter(request)
        return keys if whole or request.limit <= 0 else keys[: request.limit + 1]

    def _view(self, revision: int) -> tuple[dict[bytes, pb.KeyValue], list[bytes]]:
        """Keys and values as of a revision (0 or less: now), rebuilt by undoing what came after it."""
        if revision <= 0 or revision >= self._visible_revision:
            return self._live, self._ordered
        past = dict(self._live)
        later = [event for events in self.history(revision + 1) for event in events] + self._pending
        for event in reversed(later):
            if event.HasField("prev_kv"):
                past[event.kv.key] = event.prev_kv
            else:
                past.pop(event.kv.key, None)
        return past, sorted(past)

    def get(self, key: bytes) -> pb.KeyValue | None:
        """The key now."""
        return self._live.get(key)

    def select(self, key: bytes, range_end: bytes) -> list[pb.KeyValue]:
        """The keys of a range now."""
        return [self._live[found] for found in between(self._ordered, key, range_end)]

    # --- history

    def history(self, first: int) -> list[tuple[pb.Event, ...]]:
        """The events of the revisions from `first` on, one tuple a revision. They carry `prev_kv`."""
        count = min(len(self._log), max(0, self.revision + 1 - first))
        return list(islice(reversed(self._log), count))[::-1]

    def compact(self, revision: int) -> None:
        """Forget the history before the revision."""
        if revision <= self.compact_revision:
            raise compacted()
        if revision > self.revision:
            raise in_future()
        self._forget(revision)

    def _forget(self, revision: int) -> None:
        self.compact_revision = revision
        while self._log and self._oldest < revision:
            self._history_bytes -= _size(self._log.popleft())
            self._oldest += 1

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call it after each new revision; returns the function that ends this."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    # --- writing

    @contextmanager
    def writing(self) -> Generator[None]:
        """All changes in the block are of one revision, which begins when it ends; none if there was no change."""
        try:
            yield
        finally:
            if self._pending:
                self._commit()

    def _commit(self) -> None:
        events, self._pending = tuple(self._pending), []
        self.revision += 1
        self._log.append(events)
        self._history_bytes += _size(events)
        while len(self._log) > self._max_revisions or (
            len(self._log) > 1 and self._history_bytes > self._max_history_bytes
        ):
            self._forget(self._oldest + 1)
        for listener in tuple(self._listeners):
            listener()

    @staticmethod
    def check_put(request: pb.PutRequest) -> None:
        """Raise Refusal if the request is none."""
        if not request.key:
            raise bad_request("key is not provided")
        if request.ignore_value and request.value:
            raise bad_request("value is provided")
        if request.ignore_lease and request.lease:
            raise bad_request("lease is provided")

    def check_put_now(self, request: pb.PutRequest) -> None:
        """As `check_put`, for what depends on the store's content."""
        if (request.ignore_value or request.ignore_lease) and request.key not in self._live:
            raise bad_request("key not found")
        if request.lease:
            self.leases.find(request.lease)

    @staticmethod
    def check_delete(request: pb.DeleteRangeRequest) -> None:
        """Raise Refusal if the request is none."""
        if not request.key:
            raise bad_request("key is not provided")

    def check_space(self, size: int) -> None:
        """Raise Refusal if a request of so many bytes is too large, or the store is full."""
        if size > MAX_REQUEST_BYTES:
            raise bad_request("request is too large")
        if self.bytes + size > self._max_bytes:
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "mvcc: database space exceeded")

    def put(self, request: pb.PutRequest) -> pb.PutResponse:
        """Write a key, in a `writing` block, after the checks."""
        old = self._live.get(request.key)
        revision = self.revision + 1
        new = pb.KeyValue(
            key=request.key,
            value=old.value if old and request.ignore_value else request.value,
            lease=old.lease if old and request.ignore_lease else request.lease,
            create_revision=old.create_revision if old else revision,
            mod_revision=revision,
            version=old.version + 1 if old else 1,
        )
        self._replace(request.key, old, new)
        self._pending.append(pb.Event(type=pb.Event.PUT, kv=new, prev_kv=self._before(old)))
        answer = pb.PutResponse(prev_kv=old if request.prev_kv else None)
        answer.header.revision = revision
        return answer

    def delete(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        """Delete the keys of a range, in a `writing` block."""
        gone = self.select(request.key, request.range_end)
        for old in gone:
            self._replace(old.key, old, None)
            tombstone = pb.KeyValue(key=old.key, mod_revision=self.revision + 1)
            self._pending.append(pb.Event(type=pb.Event.DELETE, kv=tombstone, prev_kv=self._before(old)))
        answer = pb.DeleteRangeResponse(deleted=len(gone), prev_kvs=gone if request.prev_kv else ())
        answer.header.revision = self._visible_revision
        return answer

    def _before(self, old: pb.KeyValue | None) -> pb.KeyValue | None:
        """What an event says was there before: as of the revision before, also if this one wrote the key already."""
        if old is None or old.mod_revision <= self.revision:
            return old
        first = next(event for event in self._pending if event.kv.key == old.key)
        return first.prev_kv if first.HasField("prev_kv") else None

    def _replace(self, key: bytes, old: pb.KeyValue | None, new: pb.KeyValue | None) -> None:
        if old is not None:
            self.bytes -= old.ByteSize()
            self.leases.detach(old.lease, key)
        if new is not None:
            self.bytes += new.ByteSize()
            self.leases.attach(new.lease, key)
            self._live[key] = new
            if old is None:
                insort(self._ordered, key)
        else:
            del self._live[key]
            del self._ordered[bisect_left(self._ordered, key)]

    def revoke(self, lease: int) -> None:
        """End a lease and delete its keys, all in one revision; raises Refusal if there is no such lease."""
        keys = sorted(self.leases.find(lease).keys)
        with self.writing():
            for key in keys:
                self.delete(pb.DeleteRangeRequest(key=key))
        self.leases.remove(lease)


def _size(events: Iterable[pb.Event]) -> int:
    return sum(event.ByteSize() for event in events)


def _has_filter(request: pb.RangeRequest) -> bool:
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _wanted(request: pb.RangeRequest, item: pb.KeyValue) -> bool:
    return (
        item.mod_revision >= request.min_mod_revision
        and (not request.max_mod_revision or item.mod_revision <= request.max_mod_revision)
        and item.create_revision >= request.min_create_revision
        and (not request.max_create_revision or item.create_revision <= request.max_create_revision)
    )


_SORT_KEYS: dict[int, Callable[[pb.KeyValue], bytes | int]] = {
    pb.RangeRequest.KEY: lambda item: item.key,
    pb.RangeRequest.VERSION: lambda item: item.version,
    pb.RangeRequest.CREATE: lambda item: item.create_revision,
    pb.RangeRequest.MOD: lambda item: item.mod_revision,
    pb.RangeRequest.VALUE: lambda item: item.value,
}


def _sorted(request: pb.RangeRequest, items: list[pb.KeyValue]) -> list[pb.KeyValue]:
    by_key = request.sort_target == pb.RangeRequest.KEY
    if by_key and request.sort_order != pb.RangeRequest.DESCEND:
        return items  # as they come
    descending = request.sort_order == pb.RangeRequest.DESCEND
    return sorted(items, key=_SORT_KEYS.get(request.sort_target, lambda item: item.key), reverse=descending)


def _without_value(item: pb.KeyValue) -> pb.KeyValue:
    bare = pb.KeyValue()
    bare.CopyFrom(item)
    bare.ClearField("value")
    return bare
