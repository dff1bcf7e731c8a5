"""A proxy between a gateway and a worker that reads the session's messages and spoils those of one stream.

The worker behind it is a whole one: opening, loads, heartbeats and all other streams are its own. So each way in which
a worker may misbehave on the wire is a few lines here, and none in the product.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from benchmarks.systems.system import Fault
from benchmarks.systems.workers.scripted import POISON
from mesh import wire
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub

_SERVICE = "mesh.v1.InferenceService"
_GARBAGE = b"\xff\xff\xff not a message"
_ENDS = ("choice_finished", "finished")
# How the wire says what a peer's worker would say by a status.
_REFUSALS = {"exhausted": "overloaded", "unavailable": "worker_lost", "internal": "engine_failed"}


class Armed:
    """The fault that the next stream meets, shared by the proxies of one gateway.

    A request with the temperature POISON kills each worker that begins to answer it, armed or not.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None

    def take(self) -> Fault | None:
        """The fault, once."""
        fault, self.fault = self.fault, None
        return fault


class SessionProxy:
    """`async with` it. Serves `Session` on a port of its own."""

    def __init__(self, worker_port: int, armed: Armed, kill: Callable[[], None]) -> None:
        """`kill` ends the worker."""
        self.port = 0
        self._kill = kill
        self._target = f"127.0.0.1:{worker_port}"
        self._armed = armed
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=wire.SERVER_OPTIONS)
        method = grpc.stream_stream_rpc_method_handler(
            self._session, request_deserializer=pb.SessionRequest.FromString, response_serializer=_serialize
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Session": method}),))
        self.port = wire.bind(self._server, "127.0.0.1", 0)
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def _session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> None:
        async with wire.channel(self._target) as channel:
            call = InferenceServiceStub(channel).Session()
            spoiler = Spoiler(context.write, self._armed, self._kill)
            down = asyncio.create_task(_forward_down(call, spoiler))
            up = asyncio.create_task(_forward_up(requests, call, spoiler))
            try:
                await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
                broken = next((task.exception() for task in (down, up) if task.done()), None)
                if broken is not None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the worker is gone")
            finally:
                for task in (down, up):
                    task.cancel()
                await asyncio.gather(down, up, return_exceptions=True)


class Spoiler:
    """What one session does to its messages."""

    def __init__(
        self, write: Callable[[pb.SessionResponse | bytes], Any], armed: Armed, kill: Callable[[], None]
    ) -> None:
        self._write = write
        self._armed = armed
        self._kill = kill
        self._poisoned: set[int] = set()
        self._victim = 0  # the stream's id; they begin at 1
        self._fault: Fault | None = None
        self._tokens = 0
        self._began = 0.0
        self._held: list[pb.StreamEvent] = []
        self._late: pb.SessionResponse | None = None

    async def start(self, start: pb.StreamStart) -> bool:
        """A stream begins; whether the worker is to hear of it."""
        if start.request.sampling.temperature == POISON:
            self._poisoned.add(start.stream_id)
        fault = self._armed.take()
        if fault is None:
            return True
        if fault.kind in _REFUSALS:
            failed = pb.Failure(code=_REFUSALS[fault.kind], message="refused as told")
            await self._write(pb.SessionResponse(events=[pb.StreamEvent(stream_id=start.stream_id, failed=failed)]))
            return False
        self._fault, self._victim, self._tokens, self._began = fault, start.stream_id, 0, time.monotonic()
        return True

    async def message(self, message: pb.SessionResponse) -> None:
        """Pass a message on, or what becomes of it."""
        if self._poisoned and any(
            event.HasField("delta") and event.stream_id in self._poisoned for event in message.events
        ):
            self._kill()
        if self._late is not None:
            late, self._late = self._late, None
            await self._write(message)
            await self._write(late)
            return
        if self._fault is not None:
            await self._spoil(message, self._fault)
        else:
            await self._write(message)

    async def _spoil(self, message: pb.SessionResponse, fault: Fault) -> None:
        mine = [event for event in message.events if event.stream_id == self._victim]
        before = self._tokens
        self._tokens += sum(len(event.delta.token_ids) for event in mine)
        at_place = bool(mine) and before <= fault.after < self._tokens
        match fault.kind:
            case "slow_first_token":
                self._hold(message, mine, until=self._began + fault.seconds)
            case "stall" if mine and self._tokens > fault.after:
                _drop(message, mine)
            case "cut" if at_place:
                raise ConnectionError("cut as told")
            case "garbage" if at_place:
                self._fault = None
                await self._write(_GARBAGE)
            case "nonsense" if at_place:
                self._fault = None
                message.events.add(stream_id=self._victim, delta=pb.Delta(choice=9, token_ids=[1], text="?"))
            case "duplicate" if at_place:
                self._fault = None
                await self._write(message)
            case "out_of_order" if at_place:
                self._fault, self._late = None, message
                return
            case "no_finish":
                _drop(
                    message, [event for event in mine if event.WhichOneof("event") in ("choice_finished", "finished")]
                )
            case "wrong_usage":
                for event in mine:
                    if event.HasField("finished"):
                        event.finished.usage.completion_tokens += 7
            case "wrong_model":
                _disguise(mine)
            case _:
                pass
        await self._write(message)

    def _hold(self, message: pb.SessionResponse, mine: list[pb.StreamEvent], until: float) -> None:
        """Keep the stream's events back, then send all of them at once."""
        self._held += mine
        _drop(message, mine)
        if time.monotonic() >= until:
            message.events.extend(self._held)
            self._held.clear()


async def _forward_down(call: grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse], to: Spoiler) -> None:
    async for message in call:
        await to.message(message)


async def _forward_up(
    requests: AsyncIterator[pb.SessionRequest],
    call: grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse],
    spoiler: Spoiler,
) -> None:
    async for request in requests:
        if request.HasField("open"):
            request.open.columns = False  # every delta is an event that can be spoiled
        if not request.HasField("start") or await spoiler.start(request.start):
            await call.write(request)
    await call.done_writing()


def _drop(message: pb.SessionResponse, events: list[pb.StreamEvent]) -> None:
    kept = [event for event in message.events if event not in events]
    del message.events[:]
    message.events.extend(kept)


def _disguise(events: list[pb.StreamEvent]) -> None:
    """As another model would answer."""
    for event in events:
        if event.HasField("started"):
            event.started.fingerprint = "0" * len(event.started.fingerprint)
        elif event.HasField("delta") and event.delta.text:
            event.delta.text = " another"


def _serialize(message: pb.SessionResponse | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
