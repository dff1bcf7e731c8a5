"""How a session reaches its worker: the call that it is made on, and the commands on their way there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from mesh import wire
from mesh.join import CallProof, JoinToken
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub

# From a worker's address to what speaks to it, for as long as the block lasts. Tests put a simulated wire here.
Dial = Callable[[str], AbstractAsyncContextManager[InferenceServiceStub]]


def dialler(tls: wire.Tls | None, join: JoinToken | None = None) -> Dial:
    """Speaks to workers over gRPC, with TLS if it is given, and proves the join token if there is one."""
    interceptors = [CallProof(join)] if join is not None else []

    @asynccontextmanager
    async def dial(address: str) -> AsyncGenerator[InferenceServiceStub]:
        async with wire.channel(address, tls=tls, interceptors=interceptors) as channel:
            yield InferenceServiceStub(channel)

    return dial


class Outbox(AsyncIterator[pb.SessionRequest]):
    """Commands on their way to the worker. gRPC iterates over it, so that there is exactly one writer."""

    def __init__(self, first: pb.SessionRequest) -> None:
        self._commands = deque([first])
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, command: pb.SessionRequest) -> None:
        """Queue a command."""
        self._commands.append(command)
        self._wake()

    def close(self) -> None:
        """Drop what has not gone out; nothing more comes.

        gRPC iterates in a task of its own, which it does not end when the worker ends the call: left waiting here, the
        task would be collected one day, of which asyncio complains as an error.
        """
        self._closed = True
        self._commands.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.SessionRequest:
        while not self._commands:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._commands.popleft()
