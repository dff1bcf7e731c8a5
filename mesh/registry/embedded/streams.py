"""The watches of one client's stream: each is a cursor on the store's history."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry.embedded.store import FIRST_REVISION, MAX_REQUEST_BYTES, Store, covers

# Events of one message, at least; a revision is never split, unless the client asked for fragments.
_BATCH_EVENTS = 1000
# The watch_id of messages that are about all watches of the stream.
_ALL = -1


@dataclass
class _Watcher:
    id: int
    request: pb.WatchCreateRequest
    # The next revision to tell about.
    cursor: int

    def wants(self, event: pb.Event) -> bool:
        """Whether the event is of our range and passes our filters."""
        unwanted = pb.WatchCreateRequest.NOPUT if event.type == pb.Event.PUT else pb.WatchCreateRequest.NODELETE
        in_range = covers(self.request.key, self.request.range_end, event.kv.key)
        return in_range and unwanted not in self.request.filters

    def shape(self, event: pb.Event) -> pb.Event:
        """The event as we asked for it; history always has the value before."""
        return event if self.request.prev_kv else pb.Event(type=event.type, kv=event.kv)


class WatchStream:
    """Turns requests and the store's changes into responses, in the order in which they must be sent.

    A slow reader costs nothing: its cursors stay behind, and if the history it still needs is forgotten, its watch is
    ended as compacted. Responses lack the header's ids, which the server fills in.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: dict[int, _Watcher] = {}
        self._out: deque[pb.WatchResponse] = deque()

    def handle(self, request: pb.WatchRequest) -> None:
        """Take a request of the client."""
        match request.WhichOneof("request_union"):
            case "create_request":
                self._create(request.create_request)
            case "cancel_request":
                self._cancel(request.cancel_request.watch_id)
            case "progress_request":
                self.advance()
                self._say(_ALL)
            case _:
                pass  # an empty request, which etcd does not answer either

    def take(self) -> list[pb.WatchResponse]:
        """All that is to be sent now."""
        self.advance()
        out = list(self._out)
        self._out.clear()
        return out

    def report_progress(self) -> None:
        """Tell each watch that asked for it how far it is, as etcd does now and then."""
        self.advance()
        for watcher in self._watchers.values():
            if watcher.request.progress_notify:
                self._say(watcher.id)

    def advance(self) -> None:
        """Move each cursor to the present."""
        for watcher in tuple(self._watchers.values()):
            if watcher.cursor < self._store.compact_revision:
                del self._watchers[watcher.id]
                self._say(watcher.id, canceled=True, compact_revision=self._store.compact_revision)
            elif watcher.cursor <= self._store.revision:
                self._tell(watcher)

    def _create(self, request: pb.WatchCreateRequest) -> None:
        # etcd's spelling: no key is the first one, and an end of "\0" has no end.
        request.key = request.key or b"\0"
        empty = bool(request.range_end) and request.range_end != b"\0" and request.range_end <= request.key
        taken = request.watch_id in self._watchers
        if empty or taken:
            reason = "mvcc: watcher range is empty" if empty else "mvcc: duplicate watch ID provided on the WatchStream"
            self._say(_ALL, created=True, canceled=True, cancel_reason=reason)
            return
        watch_id = request.watch_id or self._free_id()
        self._say(watch_id, created=True)
        cursor = request.start_revision if request.start_revision > 0 else self._store.revision + 1
        self._watchers[watch_id] = _Watcher(watch_id, request, cursor)

    def _free_id(self) -> int:
        watch_id = 0
        while watch_id in self._watchers:
            watch_id = random.getrandbits(31)
        return watch_id

    def _cancel(self, watch_id: int) -> None:
        if watch_id in self._watchers:
            self.advance()
            self._watchers.pop(watch_id, None)
            self._say(watch_id, canceled=True)

    def _tell(self, watcher: _Watcher) -> None:
        watcher.cursor = max(watcher.cursor, FIRST_REVISION)
        batch: list[pb.Event] = []
        for events in self._store.history(watcher.cursor):
            batch.extend(watcher.shape(event) for event in events if watcher.wants(event))
            watcher.cursor += 1
            if len(batch) >= _BATCH_EVENTS:
                self._send(watcher, batch)
                batch = []
        if batch:
            self._send(watcher, batch)

    def _send(self, watcher: _Watcher, events: list[pb.Event]) -> None:
        parts = _fragments(events) if watcher.request.fragment else [events]
        for number, part in enumerate(parts, start=1):
            response = self._say(watcher.id, events=part, fragment=number < len(parts))
            response.header.revision = watcher.cursor - 1

    def _say(
        self,
        watch_id: int,
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        cancel_reason: str = "",
        fragment: bool = False,
        events: Collection[pb.Event] = (),
    ) -> pb.WatchResponse:
        response = pb.WatchResponse(
            watch_id=watch_id,
            created=created,
            canceled=canceled,
            compact_revision=compact_revision,
            cancel_reason=cancel_reason,
            fragment=fragment,
            events=events,
        )
        response.header.revision = self._store.revision
        self._out.append(response)
        return response


def _fragments(events: list[pb.Event]) -> list[list[pb.Event]]:
    """Split so that no part is larger than a request may be."""
    parts: list[list[pb.Event]] = [[]]
    size = 0
    for event in events:
        size += event.ByteSize()
        if parts[-1] and size > MAX_REQUEST_BYTES:
            parts.append([])
            size = event.ByteSize()
        parts[-1].append(event)
    return parts
