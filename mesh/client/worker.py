"""One worker as this client reaches it: its channel, its session, and how much of ours is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Protocol, TypeVar

import grpc.aio

from mesh import wire
from mesh.client.session import Session
from mesh.dial import Dial
from mesh.errors import ErrorKind, MeshError
from mesh.join import JoinToken
from mesh.registry.backoff import Backoff
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING, ServedModel, WorkerRecord

Response = TypeVar("Response")
WireEvent = pb.StreamEvent | pb.GenerateResponse


class Attempt(Protocol):
    """A generation on one worker, by either call."""

    @property
    def draining(self) -> bool:
        """Whether the worker would like to be rid of it."""
        ...

    async def next(self) -> list[pb.StreamEvent] | list[pb.GenerateResponse]:
        """The next events; none when the worker begins to drain. Raises MeshError when it is refused or lost."""
        ...

    def grant(self, tokens: int) -> None:
        """So many tokens were read."""
        ...

    def close(self) -> None:
        """End it, whatever its state."""
        ...


class PlainCall:
    """A Generate call. It has no credits: HTTP/2 holds the worker up when nobody reads."""

    draining = False

    def __init__(self, call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse], worker: str) -> None:
        self._call = call
        self._events: AsyncIterator[pb.GenerateResponse] = aiter(call)
        self._worker = worker

    async def next(self) -> list[pb.GenerateResponse]:
        """See Attempt."""
        try:
            return [await anext(self._events)]
        except StopAsyncIteration:
            raise MeshError(ErrorKind.WORKER_LOST, f"worker '{self._worker}' ended the call early") from None
        except grpc.aio.AioRpcError as error:
            if wire.cancelled_by_caller():
                raise asyncio.CancelledError from None
            raise wire.from_rpc_error(error, peer=f"worker '{self._worker}'") from None

    def grant(self, tokens: int) -> None:
        """See Attempt."""

    def close(self) -> None:
        """See Attempt."""
        self._call.cancel()


class Worker:
    """One start of one worker. `models` is empty, and `served` true of every name, where only the address is known."""

    def __init__(
        self, record: WorkerRecord, dial: Dial, *, client: str, join: JoinToken | None, sessions: bool
    ) -> None:
        self.id = record.worker_id or record.address
        # Generations and calls of this client that are on it.
        self.live = 0
        # Until when (by the loop's clock) it is not asked, since it had no room or could not be reached.
        self.rests_until = 0.0
        # When it vanished from the registry.
        self.vanished_at: float | None = None
        self._pauses = Backoff()
        self._dial = dial
        self._client = client
        self._join = join
        self._sessions = sessions
        self._stack = AsyncExitStack()
        self._stub: InferenceServiceStub | None = None
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self.update(record)

    def update(self, record: WorkerRecord) -> None:
        """The registry has a newer record of the same start of the worker."""
        self._record = record
        self.models: Mapping[str, ServedModel] = {model.name: model for model in record.models}
        self._drains = record.state == WORKER_STATE_DRAINING

    @property
    def incarnation(self) -> str:
        """Tells a restarted worker from the one before."""
        return self._record.incarnation

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new."""
        return self._drains or (self._session is not None and self._session.draining)

    @property
    def busy(self) -> float:
        """Rows for each of its slots, as far as they are known: its own word, or ours where that is more."""
        rows = self.live
        if self._session is not None and self._session.lost is None:
            load = self._session.load
            rows = max(rows, load.running + load.waiting + load.paused)
        return rows / (self._record.slots or 1)

    def served(self, model: str) -> ServedModel | None:
        """The model as it serves it, if it does; one without facts where these are not known."""
        if self._record.worker_id:
            return self.models.get(model)
        return ServedModel(name=model)

    def rest(self, seconds: float | None = None) -> None:
        """Leave it alone for a while, longer each time, or for the time that it asked for."""
        pause = max(self._pauses.next(), seconds or 0.0)
        self.rests_until = asyncio.get_running_loop().time() + pause

    def went_well(self) -> None:
        """It does what it is asked."""
        self._pauses.reset()

    async def start(self, request: pb.GenerateRequest, credit: int) -> Attempt:
        """Start a generation there; it may send `credit` tokens before it is granted more. Raises MeshError."""
        if not self._sessions:
            stub = await self._connected()
            return PlainCall(stub.Generate(request), self.id)
        session = await self._open_session()
        return session.start(request, credit)

    async def ask(self, call: Callable[[InferenceServiceStub], Awaitable[Response]]) -> Response:
        """One call with one answer. Raises MeshError."""
        stub = await self._connected()
        try:
            return await call(stub)
        except grpc.aio.AioRpcError as error:
            if wire.cancelled_by_caller():
                raise asyncio.CancelledError from None
            raise wire.from_rpc_error(error, peer=f"worker '{self.id}'") from None

    async def close(self) -> None:
        """End all that is on it."""
        if self._session is not None:
            await self._session.close()
        self._stub = None
        await self._stack.aclose()

    async def _connected(self) -> InferenceServiceStub:
        if self._stub is None:
            self._stub = await self._stack.enter_async_context(self._dial(self._record.address))
        return self._stub

    async def _open_session(self) -> Session:
        async with self._opening:
            if self._session is None or self._session.lost is not None:
                stub = await self._connected()
                self._session = Session(stub, self._record, self._client, self._join)
            await self._session.opened()
            return self._session
