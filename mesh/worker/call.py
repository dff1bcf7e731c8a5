"""One call for one answer: one request, one gRPC stream, messages as its events come, in the words of the service."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

import grpc.aio

from mesh.engine.base import Delta, Event, Failed, Finished, ModelInfo, Step
from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb
from mesh.worker.events import fill_event
from mesh.worker.stream import Stream
from mesh.worker.streams import Streams

Out = TypeVar("Out")
Tell = Callable[[Event, ModelInfo | None], Iterable[tuple[Out, int]]]
"""Makes the messages of an event of an answer of the model, with the tokens in each."""

# Tokens that may wait for a client that does not read; beyond, its rows pause.
WINDOW = 256


def tell(event: Event, model: ModelInfo | None) -> Iterator[tuple[pb.GenerateResponse, int]]:
    """The mesh's own words: a message per event."""
    wire = pb.GenerateResponse()
    fill_event(wire, event, model)
    yield wire, (len(event.token_ids) or 1) if isinstance(event, Delta) else 0


class Call(Generic[Out]):
    """Serves one call; the Sink of its one stream."""

    def __init__(self, streams: Streams, context: grpc.aio.ServicerContext[Any, Any], tell: Tell[Out]) -> None:
        self._streams = streams
        self._context = context
        self._tell = tell
        self._stream: Stream | None = None
        self._messages: deque[tuple[Out, int]] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: MeshError | None = None

    async def run(self, request: pb.GenerateRequest, *, credit: int | None = WINDOW) -> None:
        """Serve to the end; raises MeshError if the request is refused or breaks."""
        stream = self._stream = self._streams.open(self)
        try:
            await self._streams.submit(stream, request, credit=credit, deadline=self._deadline())
            while not (self._ended and not self._messages):
                await self._wake.wait()
                self._wake.clear()
                await self._write(stream)
            if self._error is not None:
                raise self._error
        finally:
            self._streams.cancel(stream)

    def end(self, last: Iterable[Out]) -> None:
        """End it before its time, with these messages."""
        if self._stream is not None and self._stream.live:
            self._streams.cancel(self._stream)
            self._messages.extend((message, 0) for message in last)
            self._ended = True
            self._wake.set()

    def _deadline(self) -> float | None:
        remaining = cast("float | None", self._context.time_remaining())  # typed as a float, None without a limit
        return None if remaining is None else time.monotonic() + remaining

    async def _write(self, stream: Stream) -> None:
        while self._messages:
            message, tokens = self._messages.popleft()
            await self._context.write(message)
            if tokens:
                self._streams.grant(stream, tokens)

    # Sink

    def add(self, stream: Stream, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Failed):
            self.fail(stream, event.error)
            return
        self._messages.extend(self._tell(event, stream.model))
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
