"""A worker and the wire to it, without processes: what a gateway's session calls, and an engine that makes steps.

The model is a function: the token at each place follows from (seed, choice, position), so any answer can be checked.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, cast

import grpc
import grpc.aio

from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING, WORKER_STATE_READY, ServedModel, WorkerRecord
from tests.columns import to_columns

FINGERPRINT = "sha256:00aa"
HEARTBEAT = 2.0
_BEAT = 0.5
_LATENCY = 0.001


def token_at(seed: int, choice: int, position: int) -> int:
    """The model."""
    return (seed * 31 + choice * 17 + position * 7) % 1000


class Row:
    """One choice of a stream."""

    def __init__(self, stream: Stream, choice: int, order: tuple[int, int], done: int) -> None:
        self.stream = stream
        self.choice = choice
        self.order = order
        self.position = done

    def __lt__(self, other: Row) -> bool:
        return self.order < other.order


class Stream:
    """One request of a session."""

    def __init__(self, call: Call, start: pb.StreamStart, deadline: float | None) -> None:
        request = start.request
        self.call = call
        self.id = start.stream_id
        self.seed = request.sampling.seed
        self.length = request.sampling.max_tokens
        self.credit = start.credit if start.HasField("credit") else None
        self.deadline = deadline
        self.started = False
        choices = max(1, request.sampling.n)
        self.done = dict.fromkeys(range(choices), 0)
        self.open = set(self.done)
        for progress in request.resume.choices:
            self.done[progress.choice] = len(progress.token_ids)
            if progress.finished:
                self.open.discard(progress.choice)

    @property
    def dry(self) -> bool:
        """It has to wait for its reader."""
        return self.credit is not None and self.credit <= 0


class Call(AsyncIterator[pb.SessionResponse]):
    """The session's end of a Session call: what gRPC would return."""

    def __init__(self, worker: Worker, commands: AsyncIterator[pb.SessionRequest]) -> None:
        self.streams: dict[int, Stream] = {}
        self._worker = worker
        self._inbox: deque[pb.SessionResponse | grpc.aio.AioRpcError] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._reader = asyncio.get_running_loop().create_task(self._read(commands))

    def put(self, message: pb.SessionResponse | grpc.aio.AioRpcError) -> None:
        """On its way to the gateway."""
        asyncio.get_running_loop().call_later(_LATENCY, self._arrive, message)

    def _arrive(self, message: pb.SessionResponse | grpc.aio.AioRpcError) -> None:
        self._inbox.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _read(self, commands: AsyncIterator[pb.SessionRequest]) -> None:
        async for command in commands:
            await asyncio.sleep(_LATENCY)
            while self._worker.frozen:
                await asyncio.sleep(_BEAT / 5)
            self._worker.obey(self, command)

    def close(self) -> None:
        """The gateway has let go of it."""
        self._reader.cancel()
        self._worker.drop(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.SessionResponse:
        while not self._inbox:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._inbox.popleft()
        if isinstance(message, grpc.aio.AioRpcError):
            raise message
        return message


class Worker:
    """One incarnation of a worker. Tests set the attributes below and call the faults at any time."""

    def __init__(self, worker_id: str, incarnation: int, *, slots: int, queue: int, step: float) -> None:
        self.worker_id = worker_id
        self.incarnation = f"i{incarnation}"
        self.address = f"{worker_id}/{incarnation}"
        self.slots = slots
        self.max_waiting = queue
        self.step_seconds = step
        self.alive = True
        self.frozen = False
        self.stalled = False
        self.draining = False
        self.refusals = 0  # starts that it will refuse although there is room
        self.failures = 0  # rows that it will break
        self.calls: set[Call] = set()
        self._order = 0
        self._steps = 0
        self._running: list[Row] = []
        self._waiting: list[Row] = []
        self._paused: list[Row] = []
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def rows(self) -> int:
        """All there are."""
        return len(self._running) + len(self._waiting) + len(self._paused)

    def record(self) -> WorkerRecord:
        """What the registry says of it."""
        state = WORKER_STATE_DRAINING if self.draining else WORKER_STATE_READY
        record = WorkerRecord(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            address=self.address,
            slots=self.slots,
            state=state,
        )
        capabilities = (pb.CAPABILITY_CHAT, pb.CAPABILITY_COMPLETION, pb.CAPABILITY_RESUME)
        record.models.append(ServedModel(name="m", fingerprint=FINGERPRINT, capabilities=capabilities))
        return record

    # Faults

    def kill(self) -> None:
        """Dead, with all its connections."""
        self.alive = False
        self._task.cancel()
        self.reset()

    def reset(self) -> None:
        """All connections break; the process lives on."""
        for call in list(self.calls):
            self.drop(call)
            call.put(broken("connection reset"))

    def drain(self) -> None:
        """No new streams."""
        self.draining = True
        for call in self.calls:
            call.put(self._message(call))

    # The wire

    def open(self, commands: AsyncIterator[pb.SessionRequest]) -> Call:
        """A new Session call."""
        call = Call(self, commands)
        self.calls.add(call)
        return call

    def drop(self, call: Call) -> None:
        """A call has ended, and all its streams."""
        self.calls.discard(call)
        for stream in list(call.streams.values()):
            self._remove(stream)

    def obey(self, call: Call, command: pb.SessionRequest) -> None:
        """A command has arrived."""
        if call not in self.calls:
            return
        match command.WhichOneof("command"):
            case "open":
                message = self._message(call)
                message.opened.worker_id = self.worker_id
                message.opened.incarnation = self.incarnation
                message.opened.heartbeat = HEARTBEAT
                call.put(message)
            case "start":
                self._start(call, command.start)
            case "cancel":
                stream = call.streams.get(command.cancel.stream_id)
                if stream is not None:
                    self._remove(stream)
            case "credit":
                stream = call.streams.get(command.credit.stream_id)
                if stream is not None and stream.credit is not None:
                    stream.credit += command.credit.tokens
            case _:
                raise AssertionError(f"unknown command {command}")

    def _start(self, call: Call, start: pb.StreamStart) -> None:
        request = start.request
        now = asyncio.get_running_loop().time()
        refusal = self._refusal(request)
        if refusal is not None:
            self._fail(call, start.stream_id, refusal)
            return
        deadline = now + request.deadline_ms / 1000 if request.HasField("deadline_ms") else None
        stream = call.streams[start.stream_id] = Stream(call, start, deadline)
        self._order += 1
        for choice in stream.open:
            row = Row(stream, choice, (request.priority, self._order), stream.done[choice])
            heapq.heappush(self._waiting, row)

    def _refusal(self, request: pb.GenerateRequest) -> str | None:
        if request.HasField("resume") and request.expected_fingerprint != FINGERPRINT:
            return "wrong_model"
        if self.draining:
            return "draining"
        if self.refusals or len(self._waiting) + max(1, request.sampling.n) > self.max_waiting:
            self.refusals = max(0, self.refusals - 1)
            return "overloaded"
        if self.failures:
            self.failures -= 1
            return "engine_failed"
        return None

    def _fail(self, call: Call, stream_id: int, code: str) -> None:
        message = self._message(call)
        message.events.add(stream_id=stream_id, failed=pb.Failure(code=code, message=code))
        call.put(message)

    def _message(self, call: Call) -> pb.SessionResponse:
        load = pb.WorkerLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            paused=len(self._paused),
            slots=self.slots,
            steps=self._steps,
        )
        return pb.SessionResponse(load=load, draining=self.draining)

    # The engine

    async def _run(self) -> None:
        """Steps while there is work, a sign of life when there is none."""
        loop = asyncio.get_running_loop()
        beat_at = loop.time()
        while True:
            await asyncio.sleep(self.step_seconds if self.rows else _BEAT / 5)
            if self.frozen:
                continue
            told = set[Call]() if self.stalled else self._step()
            if loop.time() - beat_at >= _BEAT:
                beat_at = loop.time()
                for call in self.calls - told:
                    call.put(self._message(call))

    def _step(self) -> set[Call]:
        """One step; the calls that were told of it."""
        messages: dict[Call, pb.SessionResponse] = {}
        self._expire()
        self._admit()
        progress = False
        for row in list(self._running):
            if row.stream.open:
                events = messages.setdefault(row.stream.call, pb.SessionResponse()).events
                progress |= self._advance(row, events)
        self._steps += progress
        for call, message in messages.items():
            message.step = self._steps
            message.MergeFrom(self._message(call))
            to_columns(message)
            call.put(message)
        return set(messages)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        for call in self.calls:
            for stream in list(call.streams.values()):
                if stream.deadline is not None and stream.deadline <= now:
                    self._remove(stream)
                    self._fail(call, stream.id, "deadline_exceeded")

    def _admit(self) -> None:
        for row in [row for row in self._running if row.stream.dry]:
            self._running.remove(row)
            self._paused.append(row)
        for row in [row for row in self._paused if not row.stream.dry]:
            self._paused.remove(row)
            heapq.heappush(self._waiting, row)
        while self._waiting and len(self._running) < self.slots:
            self._running.append(heapq.heappop(self._waiting))

    def _advance(self, row: Row, events: Any) -> bool:
        """Its next token, if it may have one."""
        stream = row.stream
        if not stream.started:
            stream.started = True
            started = pb.Started(prompt_tokens=5, fingerprint=FINGERPRINT)
            events.add(stream_id=stream.id, started=started)
        if stream.dry:
            return False
        if stream.credit is not None:
            stream.credit -= 1
        token = token_at(stream.seed, row.choice, row.position)
        delta = pb.Delta(choice=row.choice, token_ids=[token], position=row.position, text="x")
        events.add(stream_id=stream.id, delta=delta)
        row.position += 1
        if row.position >= stream.length:
            self._end(row, events)
        return True

    def _end(self, row: Row, events: Any) -> None:
        stream = row.stream
        self._running.remove(row)
        stream.open.discard(row.choice)
        end = pb.ChoiceFinished(choice=row.choice, reason=pb.FINISH_REASON_LENGTH)
        events.add(stream_id=stream.id, choice_finished=end)
        if not stream.open:
            usage = pb.Usage(prompt_tokens=5, completion_tokens=stream.length * len(stream.done))
            events.add(stream_id=stream.id, finished=pb.Finished(usage=usage))
            stream.call.streams.pop(stream.id, None)

    def _remove(self, stream: Stream) -> None:
        stream.call.streams.pop(stream.id, None)
        self._running = [row for row in self._running if row.stream is not stream]
        self._paused = [row for row in self._paused if row.stream is not stream]
        self._waiting = [row for row in self._waiting if row.stream is not stream]
        heapq.heapify(self._waiting)


class _Stub:
    """What a session calls."""

    def __init__(self, find: Callable[[], Worker | None]) -> None:
        self._find = find
        self.call: Call | None = None

    def Session(self, commands: AsyncIterator[pb.SessionRequest]) -> AsyncIterator[pb.SessionResponse]:
        """As gRPC: an error comes when the answer is read."""
        worker = self._find()
        if worker is None or not worker.alive:
            return _refused()
        self.call = worker.open(commands)
        return self.call


async def _refused() -> AsyncGenerator[pb.SessionResponse]:
    await asyncio.sleep(_LATENCY)
    raise broken("connection refused")
    yield pb.SessionResponse()


def broken(why: str) -> grpc.aio.AioRpcError:
    """What gRPC raises when a connection breaks."""
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=why)


class Wire:
    """All workers by address."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncGenerator[InferenceServiceStub]:
        """See gateway.routing.session.Dial."""
        stub = _Stub(lambda: self.workers.get(address))
        try:
            yield cast("InferenceServiceStub", stub)
        finally:
            if stub.call is not None:
                stub.call.close()
