"""Streams that outlive the loss of their client for a grace period, so that it can come back for the rest.

A stream that was started with `keep` has its events recorded from the first one on. When its client is gone it goes on,
within the credit that it had, and then waits; whoever names its key in time takes it over, gets all of its events, and
decides which of them are news. One that has ended is kept as long, for a client that missed the end. Everything is
bounded: the time, the events of a stream and those of all, beyond which streams are as mortal as others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mesh.engine.base import Event, Step
from mesh.errors import MeshError, invalid
from mesh.log import kv
from mesh.v1 import inference_pb2 as pb
from mesh.worker.stream import Kept, Stream

log = logging.getLogger(__name__)

KEY_BYTES = 16
MAX_SECONDS = 3600.0
# An event of one token is about 250 bytes here: at most 4 MB for a stream and 64 MB for all.
MAX_EVENTS = 16_384
MAX_ALL_EVENTS = 262_144


class _Nobody:
    """The sink of a stream that waits for its client."""

    def add(self, stream: Stream, event: Event) -> None:
        """It is recorded; nobody is there to be told."""

    def fail(self, stream: Stream, error: MeshError) -> None:
        """See `add`."""

    def flush(self, step: Step) -> None:
        """See `add`."""

    def drain(self) -> None:
        """See `add`."""

    def undrain(self) -> None:
        """See `add`."""


_NOBODY = _Nobody()


class Keeper:
    """The kept streams by their key, oldest first. `end` ends a live stream in the engine."""

    def __init__(self, end: Callable[[Stream], None]) -> None:
        self._end = end
        self._streams: dict[bytes, Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def keep(self, stream: Stream, keep: pb.Keep, request: pb.GenerateRequest, credit: int | None) -> None:
        """Record a stream that is about to begin. Raises MeshError for a bad `keep`."""
        if len(keep.key) != KEY_BYTES:
            raise invalid("keep.key", f"'keep.key' must have {KEY_BYTES} bytes, not {len(keep.key)}")
        if not 0 < keep.seconds <= MAX_SECONDS:
            text = f"'keep.seconds' must be above 0 and at most {MAX_SECONDS:g}, not {keep.seconds:g}"
            raise invalid("keep.seconds", text)
        if credit is None:
            raise invalid("keep", "'keep' needs 'credit', which bounds what is made for a client that is gone")
        if request.HasField("resume"):
            raise invalid("keep", "'keep' excludes 'resume': what came before is not here to be sent again")
        before = self._streams.get(keep.key)
        if before is not None:
            self.forget(before)
        self._make_room()
        stream.kept = Kept(keep.key, keep.seconds, credit)
        self._streams[keep.key] = stream

    def record(self, stream: Stream, event: Event) -> None:
        """Take note of an event of a kept stream: the hot path of such streams."""
        kept = stream.kept
        if kept is not None:
            kept.events.append(event)
            if len(kept.events) > MAX_EVENTS:
                self._give_up(stream)

    def leave(self, stream: Stream) -> bool:
        """The client of a live stream is gone: whether the stream waits for it."""
        kept = stream.kept
        if kept is None or not stream.submitted:
            return False
        stream.sink = _NOBODY
        self._wait(stream, kept)
        log.info("stream kept", extra=kv(key=stream.key, seconds=kept.seconds, events=len(kept.events)))
        return True

    def ended(self, stream: Stream) -> None:
        """A stream has come to its good end; its client may have missed some of it."""
        if stream.kept is not None:
            self._wait(stream, stream.kept)

    def find(self, start: pb.StreamStart) -> Stream | None:
        """The stream that this start asks for, if it is here; its time does not run out any more while it is live."""
        stream = self._streams.get(start.keep.key)
        expected = start.request.expected_fingerprint
        if stream is None or stream.kept is None or not stream.submitted or expected not in ("", stream.fingerprint):
            return None
        stream.kept.stop_timer()
        if not stream.live:
            self._wait(stream, stream.kept)
        return stream

    def forget(self, stream: Stream) -> None:
        """Keep a stream no longer; does not end it."""
        kept, stream.kept = stream.kept, None
        if kept is not None:
            kept.stop_timer()
            if self._streams.get(kept.key) is stream:
                del self._streams[kept.key]

    def drain(self) -> None:
        """Nobody is waited for any more."""
        for stream in [stream for stream in self._streams.values() if stream.sink is _NOBODY]:
            self._give_up(stream)

    def _wait(self, stream: Stream, kept: Kept) -> None:
        kept.stop_timer()
        kept.timer = asyncio.get_running_loop().call_later(kept.seconds, self._give_up, stream)

    def _give_up(self, stream: Stream) -> None:
        self.forget(stream)
        if stream.live and stream.sink is _NOBODY:
            log.info("nobody came for a kept stream", extra=kv(key=stream.key))
            self._end(stream)

    def _make_room(self) -> None:
        """Give up the oldest while there are too many events."""
        events = sum(len(stream.kept.events) for stream in self._streams.values() if stream.kept is not None)
        for stream in list(self._streams.values()):
            if events <= MAX_ALL_EVENTS:
                return
            events -= len(stream.kept.events) if stream.kept is not None else 0
            self._give_up(stream)
