"""A worker's gRPC server in this process, and a client of its sessions, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from mesh import wire
from mesh.engine.base import Engine
from mesh.join import JoinToken
from mesh.trace import Spans
from mesh.v1 import admin_pb2_grpc, inference_pb2_grpc
from mesh.v1 import inference_pb2 as pb
from mesh.worker.identity import Identity
from mesh.worker.server import WorkerServer
from tests.columns import as_events
from tests.harness import eventually

LIMIT = 10.0


@dataclass
class Rig:
    """A serving worker and a channel to it."""

    server: WorkerServer
    channel: grpc.aio.Channel
    port: int

    @property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self.channel)

    @property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        return admin_pb2_grpc.AdminServiceStub(self.channel)

    @asynccontextmanager
    async def session(
        self, channel: grpc.aio.Channel | None = None, *, columns: bool = True
    ) -> AsyncGenerator[SessionClient]:
        """An open session; hung up at the end."""
        stub = inference_pb2_grpc.InferenceServiceStub(channel or self.channel)
        client = SessionClient(stub.Session())
        await client.send(open=pb.SessionOpen(client="test", columns=columns))
        await client.until(lambda: bool(client.messages))
        try:
            yield client
        finally:
            client.hang_up()


@asynccontextmanager
async def serving(
    engine: Engine,
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    join: JoinToken | None = None,
    spans: Spans | None = None,
    tls: wire.Tls | None = None,
    also_speak: Sequence[str] = (),
    worker_id: str = "worker-under-test",
) -> AsyncGenerator[Rig]:
    """Serve an engine on a free port while the context lasts."""
    server = WorkerServer(
        engine,
        Identity(worker_id, join=join),
        interceptors=interceptors,
        spans=spans,
        tls=tls,
        also_speak=also_speak,
    )
    port = server.bind("127.0.0.1", 0)
    await server.start()
    try:
        async with wire.channel(f"127.0.0.1:{port}", tls=tls) as channel:
            yield Rig(server, channel, port)
    finally:
        await server.stop()


class SessionClient:
    """One session as a gateway has it: sends commands, keeps every message."""

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]) -> None:
        self.call = call
        self.messages: list[pb.SessionResponse] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.error: grpc.aio.AioRpcError | None = None
        self.ended = False
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.call:
                self.messages.append(message)
                await self.reading.wait()
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            self.ended = True

    async def send(self, **command: pb.SessionOpen | pb.StreamStart | pb.StreamCancel | pb.StreamCredit) -> None:
        """Send one command."""
        await self.call.write(pb.SessionRequest(**command))  # pyright: ignore[reportArgumentType]

    async def start(
        self,
        stream_id: int,
        request: pb.GenerateRequest | None = None,
        *,
        credit: int | None = None,
        keep: pb.Keep | None = None,
    ) -> None:
        """Start a stream."""
        wanted = request or pb.GenerateRequest(text=f"prompt {stream_id}")
        await self.send(start=pb.StreamStart(stream_id=stream_id, request=wanted, credit=credit, keep=keep))

    async def cancel(self, stream_id: int) -> None:
        """Cancel a stream."""
        await self.send(cancel=pb.StreamCancel(stream_id=stream_id))

    async def until(self, check: Callable[[], bool], within: float = LIMIT) -> None:
        """Wait until something holds."""
        await eventually(check, within)

    def hang_up(self) -> None:
        """End the call as a gateway that has gone does."""
        self.call.cancel()
        self._reader.cancel()

    @property
    def steps(self) -> list[pb.SessionResponse]:
        """The messages that are the result of steps."""
        return [message for message in self.messages if message.step]

    def events(self, stream_id: int) -> list[pb.StreamEvent]:
        """All events of a stream so far."""
        return [event for message in self.messages for event in as_events(message) if event.stream_id == stream_id]

    def kinds(self, stream_id: int) -> list[str]:
        """What the events of a stream are."""
        return [event.WhichOneof("event") or "" for event in self.events(stream_id)]

    def text(self, stream_id: int) -> str:
        """The text of a stream so far."""
        return "".join(event.delta.text for event in self.events(stream_id))

    def failure(self, stream_id: int) -> pb.Failure | None:
        """The failure of a stream, if it has failed."""
        return next((event.failed for event in self.events(stream_id) if event.HasField("failed")), None)
