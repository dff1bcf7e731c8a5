"""One plain Generate call: one request, one gRPC stream, one message per event."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import cast

import grpc.aio

from mesh.engine.base import Event, Failed, Finished, Step
from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb
from mesh.worker.events import fill_event
from mesh.worker.stream import Stream
from mesh.worker.streams import Streams

Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]

# Tokens that may wait for a client that does not read; beyond, its rows pause.
_WINDOW = 256


class Call:
    """Serves one Generate call; the Sink of its one stream."""

    def __init__(self, streams: Streams, context: Context) -> None:
        self._streams = streams
        self._context = context
        self._events: deque[pb.GenerateResponse] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: MeshError | None = None

    async def run(self, request: pb.GenerateRequest) -> None:
        """Serve to the end; raises MeshError if the request is refused or breaks."""
        stream = self._streams.open(self)
        try:
            await self._streams.submit(stream, request, credit=_WINDOW, deadline=self._deadline())
            while not (self._ended and not self._events):
                await self._wake.wait()
                self._wake.clear()
                await self._write(stream)
            if self._error is not None:
                raise self._error
        finally:
            self._streams.cancel(stream)

    def _deadline(self) -> float | None:
        remaining = cast("float | None", self._context.time_remaining())  # typed as a float, None without a limit
        return None if remaining is None else time.monotonic() + remaining

    async def _write(self, stream: Stream) -> None:
        while self._events:
            event = self._events.popleft()
            await self._context.write(event)
            if event.HasField("delta"):
                self._streams.grant(stream, len(event.delta.token_ids) or 1)

    # Sink

    def add(self, stream: Stream, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Failed):
            self.fail(stream, event.error)
            return
        wire = pb.GenerateResponse()
        fill_event(wire, event, stream.model)
        self._events.append(wire)
        self._ended = isinstance(event, Finished)

    def fail(self, stream: Stream, error: MeshError) -> None:
        """End the call with an error, once what was taken before is sent."""
        self._error = error
        self._ended = True
        self._wake.set()

    def flush(self, step: Step) -> None:
        """Have the events of a step sent."""
        self._wake.set()

    def drain(self) -> None:
        """A plain call has no way to say so; it runs to its end."""

    def undrain(self) -> None:
        """See `drain`."""
