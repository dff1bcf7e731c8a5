"""One watch of etcd: a stream of changes that is either alive and complete, or raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
import grpc.aio

from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry.endpoint import AioEndpoint, Metadata, open_stream
from mesh.registry.errors import (
    EtcdError,
    EtcdUnavailable,
    from_rpc,
    make_error,
    too_slow,
)
from mesh.wire import cancelled_by_caller

# Makes a member that has lost its cluster end the watch, which would otherwise stay silent and look alive.
_REQUIRE_LEADER = (("hasleader", "true"),)
_PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


class StreamOwner(Protocol):
    """What a watch needs of the client that made it."""

    async def token_for(self, endpoint: AioEndpoint) -> Metadata:
        """The metadata for a stream on this endpoint."""
        ...

    def stream_failed(self, endpoint: AioEndpoint, error: EtcdError, token: Metadata) -> None:
        """The stream broke."""
        ...


class Watch:
    """Made by `EtcdClient.watch`; iterates over lists of events, one list a message."""

    def __init__(
        self,
        owner: StreamOwner,
        endpoint: AioEndpoint,
        request: pb.WatchCreateRequest,
        *,
        timeout: float,
        quiet: float,
    ) -> None:
        self._owner = owner
        self._timeout = timeout
        self._endpoint = endpoint
        self._create = request
        self._quiet = quiet
        self._token: Metadata = ()
        self._asked: asyncio.Queue[pb.WatchRequest | None] = asyncio.Queue()
        self._responses: AsyncIterator[pb.WatchResponse]
        self._stack = AsyncExitStack()
        # The store's revision as of the last message.
        self.revision = 0

    async def __aenter__(self) -> Self:
        async with self._stack:
            try:
                await self._open()
            except EtcdError as error:
                self._owner.stream_failed(self._endpoint, error, self._token)
                raise
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[pb.Event]:
        try:
            while True:
                response = await self._next_or_ask()
                if response.events:
                    return list(response.events)
        except EtcdError as error:
            self._owner.stream_failed(self._endpoint, error, self._token)
            raise

    async def _open(self) -> None:
        """Start the stream and wait until etcd says that the watch stands."""
        self._token = await self._owner.token_for(self._endpoint)
        channel = self._stack.enter_context(self._endpoint.lend())
        self._asked.put_nowait(pb.WatchRequest(create_request=self._create))
        method, metadata = "/etcdserverpb.Watch/Watch", (*self._token, *_REQUIRE_LEADER)
        call = open_stream(channel, method, self._requests(), pb.WatchResponse, metadata)
        self._stack.callback(_cancel, call)
        self._stack.callback(self._asked.put_nowait, None)  # gRPC's task that waits for requests ends only by that
        self._responses = aiter(call)
        await self._next(self._timeout)

    async def _requests(self) -> AsyncIterator[pb.WatchRequest]:
        while (request := await self._asked.get()) is not None:
            yield request

    async def _next_or_ask(self) -> pb.WatchResponse:
        """The next message; when none comes for a while, ask for one to see whether the stream is alive."""
        ask = asyncio.get_running_loop().call_later(self._quiet, self._asked.put_nowait, _PROGRESS)
        try:
            return await self._next(2 * self._quiet)
        finally:
            ask.cancel()

    async def _next(self, limit: float) -> pb.WatchResponse:
        target = self._endpoint.target
        try:
            async with asyncio.timeout(limit):
                response = await anext(self._responses)
        except TimeoutError:
            # The connection may be dead without an end; on a new one we shall see whether it was that.
            await self._endpoint.reconnect()
            raise too_slow("no news and no answer to a progress request,", limit, target) from None
        except StopAsyncIteration:
            raise EtcdUnavailable(grpc.StatusCode.UNAVAILABLE, "the watch ended", target) from None
        except grpc.RpcError as error:
            if cancelled_by_caller():
                raise asyncio.CancelledError from None
            raise from_rpc(error, target) from None
        except asyncio.CancelledError:
            if cancelled_by_caller():
                raise
            raise EtcdUnavailable(grpc.StatusCode.CANCELLED, "the connection was closed", target) from None
        return self._checked(response)

    def _checked(self, response: pb.WatchResponse) -> pb.WatchResponse:
        target = self._endpoint.target
        if response.compact_revision:
            detail = f"revision {self._create.start_revision} is compacted, up to {response.compact_revision}"
            raise make_error(grpc.StatusCode.OUT_OF_RANGE, detail, target)
        if response.canceled:
            reason = response.cancel_reason or "etcd ended the watch"
            refused = EtcdError(grpc.StatusCode.PERMISSION_DENIED, reason, target)
            raise refused if refused.denied else EtcdUnavailable(grpc.StatusCode.UNAVAILABLE, reason, target)
        if response.header.revision < self.revision:
            raise EtcdUnavailable(grpc.StatusCode.UNAVAILABLE, "the store went back in time", target)
        self.revision = response.header.revision
        return response


def _cancel(call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
    call.cancel()
