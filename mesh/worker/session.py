"""One session: many streams of one gateway on one gRPC stream, one message per engine step.

While a write is blocked by a slow gateway, later steps gather in the next message; the credits that the gateway gave
bound it. When the session ends, for whatever reason, all its streams are cancelled in the engine at once, but for those
that are kept for a client that may come back over another session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc.aio

from mesh.engine.base import Delta, Event, Failed, Finished, Started, Step
from mesh.errors import ErrorKind, MeshError, invalid
from mesh.join import check_nonce, new_nonce
from mesh.log import bind_request_id, kv
from mesh.metrics import WorkerMetrics
from mesh.v1 import inference_pb2 as pb
from mesh.worker.columns import Columns
from mesh.worker.events import (
    fill_event,
    fill_failure,
    fill_load,
)
from mesh.worker.identity import Identity
from mesh.worker.stream import Stream
from mesh.worker.streams import Streams

log = logging.getLogger(__name__)

# Announced to gateways: this many seconds of silence mean a dead or frozen worker.
HEARTBEAT_LIMIT = 2.0
# How often a quiet session is looked at; silence lasts at most twice as long.
_BEAT = 0.25
# A client that has not proven the join token after so many seconds is no gateway.
_PROOF_LIMIT = 3.0
# A gateway that takes no byte for so many seconds is given up, since events gather for it.
_BLOCKED_LIMIT = 30.0

Context = grpc.aio.ServicerContext[pb.SessionRequest, pb.SessionResponse]


class Session:
    """Serves one Session call; a Sink of all its streams."""

    def __init__(self, streams: Streams, identity: Identity, metrics: WorkerMetrics, context: Context) -> None:
        self.messages = 0
        self._client = ""
        self._streams = streams
        self._identity = identity
        self._metrics = metrics
        self._context = context
        self._mine: dict[int, Stream] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._pending: pb.SessionResponse | None = None
        self._wake = asyncio.Event()
        # Whether the gateway reads columns; those of the next message, and the streams that have something behind them.
        self._reads_columns = False
        self._columns: Columns | None = None
        self._behind: set[int] = set()
        self._half_closed = False
        self._refused = False
        self._written_at = 0.0
        self._writing = False
        # What the gateway still has to prove.
        self._unproven: tuple[bytes, bytes, str, str] | None = None

    async def run(self, commands: AsyncIterator[pb.SessionRequest]) -> None:
        """Serve until the gateway closes its side and its streams have ended. Raises MeshError on a bad command."""
        await self._open(commands)
        self._streams.attach(self)
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self._beat())
                writer = group.create_task(self._write())
                writer.add_done_callback(lambda _: beat.cancel())
                try:
                    async for command in commands:
                        self._obey(command, group)
                except MeshError:
                    # A call whose write is cancelled cannot be aborted any more, and would stay open.
                    self._refused = True
                    self._wake.set()
                    await asyncio.wait([writer])
                    raise
                self._half_closed = True
                self._wake.set()
        finally:
            log.info("session closed", extra=kv(client=self._client, streams=len(self._mine), messages=self.messages))
            self._streams.detach(self)
            for stream in list(self._mine.values()):
                self._streams.lose(stream)

    async def _open(self, commands: AsyncIterator[pb.SessionRequest]) -> None:
        command = await anext(aiter(commands), None)
        if command is None or not command.HasField("open"):
            raise invalid("open", "the first command of a session must be 'open'")
        self._identity.check(command.open.expected_worker_id, command.open.expected_incarnation)
        self._client = command.open.client
        self._reads_columns = command.open.columns
        log.info("session opened", extra=kv(client=self._client, peer=self._context.peer()))
        message = self._message()
        message.opened.worker_id = self._identity.worker_id
        message.opened.incarnation = self._identity.incarnation
        message.opened.heartbeat = HEARTBEAT_LIMIT
        self._challenge(command.open.nonce, message.opened)
        self._wake.set()

    def _challenge(self, nonce: bytes, opened: pb.SessionOpened) -> None:
        """Prove the join token and ask the gateway to; without a token neither."""
        join, identity = self._identity.join, self._identity
        if join is not None:
            check_nonce(nonce)
            opened.nonce = new_nonce()
            self._unproven = (nonce, opened.nonce, identity.worker_id, identity.incarnation)
            opened.proof = join.session("worker", self._unproven)

    def _prove(self, proof: bytes) -> None:
        """Check the gateway's proof. Raises MeshError."""
        if self._identity.join is not None and self._unproven is not None:
            self._identity.join.check_session("gateway", self._unproven, proof)
            self._unproven = None

    def _obey(self, command: pb.SessionRequest, group: asyncio.TaskGroup) -> None:
        if self._unproven is not None:
            self._prove(command.prove.proof)
            return
        match command.WhichOneof("command"):
            case "start":
                self._start(command.start, group)
            case "cancel":
                stream = self._mine.pop(command.cancel.stream_id, None)
                if stream is not None:
                    end = self._streams.lose if command.cancel.keep else self._streams.cancel
                    end(stream)
                    self._drop_events(command.cancel.stream_id)
            case "credit":
                stream = self._mine.get(command.credit.stream_id)
                if stream is not None:
                    self._streams.grant(stream, command.credit.tokens)
            case "open":
                raise invalid("open", "a session can be opened only once")
            case _:
                raise invalid("command", "a session command that this worker does not know")

    def _start(self, start: pb.StreamStart, group: asyncio.TaskGroup) -> None:
        if start.stream_id in self._mine:
            raise invalid("stream_id", f"'stream_id' {start.stream_id} is in use on this session")
        stream = self._streams.take_over(start)
        if stream is not None:
            self._go_on(stream, start.stream_id)
            return
        stream = self._streams.open(self, start.stream_id)
        self._mine[start.stream_id] = stream
        group.create_task(self._submit(stream, start))

    def _go_on(self, stream: Stream, stream_id: int) -> None:
        """Serve a stream that was kept: all its events so far go into the next message."""
        assert stream.kept is not None
        stream.sink, stream.stream_id = self, stream_id
        self._mine[stream_id] = stream
        for event in stream.kept.events:
            self.add(stream, event)
            if isinstance(event, Started):
                self._message().events[-1].started.kept = True
        self._wake.set()

    async def _submit(self, stream: Stream, start: pb.StreamStart) -> None:
        bind_request_id(start.request.request_id)
        credit = start.credit if start.HasField("credit") else None
        try:
            keep = start.keep if start.HasField("keep") else None
            await self._streams.submit(stream, start.request, credit=credit, keep=keep)
        except MeshError as error:
            self.fail(stream, error)

    # Sink

    def add(self, stream: Stream, event: Event) -> None:
        """Take an event into the next message."""
        stream_id = stream.stream_id
        if type(event) is Delta and self._reads_columns and stream_id not in self._behind:
            if self._columns is None:
                self._columns = Columns(self._message())
            if self._columns.add(stream_id, event):
                return
        events = self._message().events
        wire = events.add()
        wire.stream_id = stream_id
        try:
            fill_event(wire, event, stream.model)
        except BaseException:
            del events[-1]
            raise
        self._behind.add(stream_id)
        if isinstance(event, Finished | Failed):
            self._forget(stream)

    def fail(self, stream: Stream, error: MeshError) -> None:
        """End a stream with an error, unless the gateway has ended it before."""
        if self._forget(stream):
            wire = self._message().events.add()
            wire.stream_id = stream.stream_id
            fill_failure(wire.failed, error)
            self._behind.add(stream.stream_id)
            self._wake.set()

    def flush(self, step: Step) -> None:
        """Complete the message of a step and have it sent."""
        message = self._message()
        message.step = step.number
        fill_load(message.load, step.load)
        self._wake.set()

    def drain(self) -> None:
        """Say at once that the worker drains; every later message repeats it."""
        message = self._message()
        message.draining, message.undrained = True, False
        self._wake.set()

    def undrain(self) -> None:
        """Say at once that the worker takes streams again."""
        message = self._message()
        message.draining, message.undrained = False, True
        self._wake.set()

    def _message(self) -> pb.SessionResponse:
        if self._pending is None:
            self._pending = pb.SessionResponse(draining=self._streams.draining)
        return self._pending

    def _forget(self, stream: Stream) -> bool:
        if self._mine.get(stream.stream_id) is not stream:
            return False
        del self._mine[stream.stream_id]
        return True

    def _drop_events(self, stream_id: int) -> None:
        """After a cancel no event of the stream is sent, not even one that waits for a blocked write."""
        message = self._pending
        if message is None:
            return
        if stream_id in self._behind:
            kept = [event for event in message.events if event.stream_id != stream_id]
            del message.events[:]
            message.events.extend(kept)
        if self._columns is not None:
            self._columns.drop(stream_id)

    # Writing

    async def _write(self) -> None:
        """Send the gathered message whenever there is one, until nothing can follow."""
        now = asyncio.get_running_loop().time
        while not self._refused and (self._pending is not None or self._mine or not self._half_closed):
            await self._wake.wait()
            self._wake.clear()
            message, self._pending = self._pending, None
            if message is None:
                continue
            self._columns = None
            self._behind.clear()
            if not message.HasField("load"):
                fill_load(message.load, self._streams.engine.load())
            if message.events or message.tokens.stream_ids:
                self.messages += 1
                self._metrics.session_messages.inc()
            self._written_at = now()
            self._writing = True
            await self._context.write(message)
            self._writing = False

    async def _beat(self) -> None:
        """Send the load when nothing else was sent, and give up a gateway that does not read."""
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            await asyncio.sleep(_BEAT)
            if self._unproven is not None and now() - began > _PROOF_LIMIT:
                self._prove(b"")
            silence = now() - self._written_at
            if self._writing and silence > _BLOCKED_LIMIT:
                raise MeshError(
                    ErrorKind.DEADLINE_EXCEEDED, f"the client of this session took nothing for {_BLOCKED_LIMIT:g} s"
                )
            if not self._writing and silence >= _BEAT:
                self._message()
                self._wake.set()
