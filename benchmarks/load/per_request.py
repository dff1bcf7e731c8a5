"""The other way to build the wire, for comparison: a gRPC stream per request instead of one session per worker.

This is the gateway, whole and unchanged, but for one class: its Session opens a `Generate` call for each stream. The
session itself stays open for the worker's heartbeats and load, as any gateway would need some such thing.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc.aio

import gateway.routing.directory
from gateway.__main__ import main
from gateway.routing.session import Session
from gateway.routing.stream import Stream
from mesh import wire
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub


class PerRequestSession(Session):
    """A Session whose streams are gRPC streams. gRPC's own flow control stands in for the credits."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._generate = InferenceServiceStub(wire.channel(self.address)).Generate
        self._calls: dict[int, asyncio.Task[None]] = {}

    def start(
        self,
        request: pb.GenerateRequest,
        *,
        rows: int,
        credit: int | None,
        tokens: int = 0,
        keep: pb.Keep | None = None,
    ) -> Stream[Session]:
        """See Session."""
        del credit, keep
        stream: Stream[Session] = Stream(self, next(self._ids), rows, None, tokens)
        if not self.open:
            stream.lost = self._gone("is not connected")
            stream.ended = True
            return stream
        self._streams[stream.id] = stream
        self.unconfirmed += rows
        self.unconfirmed_tokens += tokens
        self._calls[stream.id] = asyncio.create_task(self._read(stream, request))
        return stream

    def forget(self, stream: Stream[Session], *, keep: bool = False) -> None:
        """See Session."""
        del keep
        call = self._calls.pop(stream.id, None)
        if call is not None:
            call.cancel()
        stream.ended = True  # the session has nothing to cancel
        super().forget(stream)

    async def _read(self, stream: Stream[Session], request: pb.GenerateRequest) -> None:
        """One call to its end. Both messages name the parts of their oneof alike, so tokens are not copied."""
        try:
            async for response in self._generate(request):
                self._take(stream, _event_of(response))
        except grpc.aio.AioRpcError as error:
            failure = wire.from_rpc_error(error)
            self._take(stream, pb.StreamEvent(failed=pb.Failure(code=failure.code, message=failure.message)))

    def _take(self, stream: Stream[Session], event: pb.StreamEvent) -> None:
        if not stream.confirmed:
            self._confirm(stream)
        stream.events.append(event)
        stream.wake()


def _event_of(response: pb.GenerateResponse) -> pb.StreamEvent:
    """What the generation takes, which asks of anything but tokens whether it is a failure: of a call it never is."""
    match response.WhichOneof("event"):
        case "started":
            return pb.StreamEvent(started=response.started)
        case "choice_finished":
            return pb.StreamEvent(choice_finished=response.choice_finished)
        case "finished":
            return pb.StreamEvent(finished=response.finished)
        case _:
            return cast("pb.StreamEvent", response)


if __name__ == "__main__":
    gateway.routing.directory.Session = PerRequestSession
    main()
