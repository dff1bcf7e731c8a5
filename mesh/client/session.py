"""One multiplexed stream with one worker: all generations of this client there, one message per engine step.

The simple counterpart of `gateway/routing/session.py`. It notices a worker that is silent for longer than it promised
to be, dead or frozen; one whose engine alone stands still is noticed by the request's own deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import logging

import grpc.aio

from mesh import wire
from mesh.answer import error_of
from mesh.dial import Outbox
from mesh.errors import ErrorKind, MeshError
from mesh.join import JoinToken, new_nonce
from mesh.log import kv
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh.v1.registry_pb2 import WorkerRecord

log = logging.getLogger(__name__)

# A worker that accepts a connection but does not open the session in time is frozen.
OPEN_LIMIT = 5.0
_DEFAULT_HEARTBEAT = 2.0
# Looks per heartbeat. Counted, not timed: a loop that was busy elsewhere for long does not make the worker silent.
_LOOKS = 8


class Stream:
    """One generation on a session."""

    def __init__(self, session: Session, stream_id: int) -> None:
        self.id = stream_id
        self._session = session
        self._events: list[pb.StreamEvent] = []
        self._error: MeshError | None = None
        self._ended = False
        self._told_drain = False
        self._wake = asyncio.Event()

    @property
    def draining(self) -> bool:
        """Whether the worker would like to be rid of it."""
        return self._session.draining

    async def next(self) -> list[pb.StreamEvent]:
        """The next events; none at all when the worker begins to drain. Raises MeshError when it is refused or lost."""
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._session.draining and not self._told_drain:
                self._told_drain = True
                return []
            self._wake.clear()
            await self._wake.wait()
        events, self._events = self._events, []
        return events

    def grant(self, tokens: int) -> None:
        """Allow the worker so many tokens more."""
        if tokens and not self._ended:
            credit = pb.StreamCredit(stream_id=self.id, tokens=tokens)
            self._session.send(pb.SessionRequest(credit=credit))

    def close(self) -> None:
        """End it; the worker is told unless it has ended by itself."""
        if not self._ended:
            self._ended = True
            self._session.forget(self.id)
            self._session.send(pb.SessionRequest(cancel=pb.StreamCancel(stream_id=self.id)))

    def take(self, event: pb.StreamEvent) -> bool:
        """An event arrived; returns whether it is the last one."""
        if event.HasField("failed"):
            self.fail(error_of(event.failed))
        else:
            self._events.append(event)
            self._ended = event.HasField("finished")
            self._wake.set()
        return self._ended

    def fail(self, error: MeshError) -> None:
        """It ends with this error, after the events that have come."""
        self._ended = True
        self._error = error
        self._wake.set()

    def nudge(self) -> None:
        """Let `next` look at the session again."""
        self._wake.set()


class Session:
    """Made open or on the way there: `await opened()`. `lost` is set once it is over, whyever. Close it."""

    def __init__(self, stub: InferenceServiceStub, record: WorkerRecord, client: str, join: JoinToken | None) -> None:
        self.draining = False
        self.lost: MeshError | None = None
        self.load = pb.WorkerLoad()
        self._record = record
        self._join = join
        self._streams: dict[int, Stream] = {}
        self._ids = itertools.count(1)
        self._settled = asyncio.Event()
        self._heard = False
        self._quiet = 0
        self._pause = _DEFAULT_HEARTBEAT / _LOOKS
        self._look: asyncio.TimerHandle | None = None
        self._opening = pb.SessionOpen(
            client=client,
            expected_worker_id=record.worker_id,
            expected_incarnation=record.incarnation,
            nonce=new_nonce() if join is not None else b"",
        )
        self._outbox = Outbox(pb.SessionRequest(open=self._opening))
        self._call = stub.Session(self._outbox)
        self._reader = asyncio.create_task(self._read())

    async def opened(self) -> None:
        """Wait until streams can be started. Raises MeshError if that cannot be."""
        try:
            async with asyncio.timeout(OPEN_LIMIT):
                await self._settled.wait()
        except TimeoutError:
            self._end(self._gone(f"did not open the session within {OPEN_LIMIT:g} s"))
        if self.lost is not None:
            raise self.lost

    def start(self, request: pb.GenerateRequest, credit: int) -> Stream:
        """Start a generation of which the worker may send so many tokens before it is granted more."""
        stream = Stream(self, next(self._ids))
        if self.lost is not None:
            stream.fail(self.lost)
            return stream
        self._streams[stream.id] = stream
        start = pb.StreamStart(stream_id=stream.id, request=request, credit=credit)
        self.send(pb.SessionRequest(start=start))
        return stream

    def send(self, command: pb.SessionRequest) -> None:
        """Queue a command; once the session is over there is nobody to command."""
        if self.lost is None:
            self._outbox.put(command)

    def forget(self, stream_id: int) -> None:
        """Drop what still comes of a stream."""
        self._streams.pop(stream_id, None)

    async def close(self) -> None:
        """End it and all its streams."""
        self._end(self._gone("was left"))
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        error = self._gone("ended the session")
        try:
            async for message in self._call:
                if not self._settled.is_set():
                    self._take_opening(message.opened)
                self._receive(message)
        except grpc.aio.AioRpcError as failed:
            settled = self._settled.is_set()
            error = wire.from_rpc_error(failed, peer="" if settled else self._worker)
            if settled and error.kind.value.retry_elsewhere:
                error = self._gone(f"was lost: {error.message}")
        except MeshError as refused:
            error = refused
        except Exception:
            log.exception("a session broke", extra=kv(worker=self._record.worker_id))
        finally:
            self._end(error)

    def _take_opening(self, opened: pb.SessionOpened) -> None:
        """Check that the worker is of our mesh, and begin."""
        if self._join is not None:
            proven = (self._opening.nonce, opened.nonce, opened.worker_id, opened.incarnation)
            self._join.check_session("worker", proven, opened.proof)
            self._outbox.put(pb.SessionRequest(prove=pb.SessionProof(proof=self._join.session("gateway", proven))))
        self._pause = (opened.heartbeat or _DEFAULT_HEARTBEAT) / _LOOKS
        self._watch()
        self._settled.set()

    def _receive(self, message: pb.SessionResponse) -> None:
        self._heard = True
        if message.HasField("load"):
            self.load = message.load
        for event in message.events:
            stream = self._streams.get(event.stream_id)
            if stream is not None and stream.take(event):
                del self._streams[event.stream_id]
        began = message.draining and not self.draining
        self.draining = message.draining  # which may be called off
        if began:
            for stream in self._streams.values():
                stream.nudge()
        elif message.undrained:
            self.draining = False

    def _watch(self) -> None:
        """Look whether the worker is silent, some times per heartbeat."""
        self._quiet = 0 if self._heard else self._quiet + 1
        self._heard = False
        if self._quiet > _LOOKS:
            self._end(self._gone(f"was silent for {self._pause * _LOOKS:g} s"))
        elif self.lost is None:
            self._look = asyncio.get_running_loop().call_later(self._pause, self._watch)

    def _end(self, error: MeshError) -> None:
        """It is over; the first reason counts."""
        if self.lost is not None:
            return
        self.lost = error
        if self._look is not None:
            self._look.cancel()
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.fail(error)
        self._settled.set()
        self._call.cancel()
        self._outbox.close()

    @property
    def _worker(self) -> str:
        return f"worker '{self._record.worker_id or self._record.address}'"

    def _gone(self, what: str) -> MeshError:
        return MeshError(ErrorKind.WORKER_LOST, f"{self._worker} {what}")
