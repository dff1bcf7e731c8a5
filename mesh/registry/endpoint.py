"""One etcd endpoint and its connection, over either of gRPC's Python stacks.

`AioEndpoint` (grpc.aio) is for code on a program's main event loop. `ThreadedEndpoint` (the classic stack, awaited
from asyncio) is for an event loop in a second thread: all grpc.aio loops of a process share one completion queue, and
a second loop made each streamed message of the first cost a quarter to a third more CPU (measured, grpcio 1.85.1).
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from mesh.registry.errors import EtcdUnavailable, from_rpc
from mesh.registry.options import EtcdOptions
from mesh.wire import cancelled_by_caller, client_credentials

R = TypeVar("R", bound=Message)
Metadata = tuple[tuple[str, str], ...]

# Not mesh.wire's: etcd ends the connection of a client that pings more often than every 5 s or without a call.
_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", -1),  # a listing of some thousand workers is larger than the 4 MB default
    ("grpc.enable_retries", 0),  # the client above fails over by itself
    ("grpc.use_local_subchannel_pool", 1),  # a new channel shall be a new connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # which is the limit of one attempt to connect
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# A connection can be dead without an end (a middlebox forgot it). After so many calls in a row without an answer
# the next one gets a new connection.
_MISSES = 2


class Endpoint(ABC):
    """A connection to one endpoint, made on first use, which reconnects by itself."""

    def __init__(self, options: EtcdOptions, target: str) -> None:
        self.target = target
        self._credentials = client_credentials(options.tls) if options.tls is not None else None
        self._misses = 0

    async def unary(
        self, method: str, request: Message, reply: type[R], *, timeout: float, metadata: Metadata = ()
    ) -> R:
        """One request, one answer. Raises EtcdError; a lost connection, no answer in time are EtcdUnavailable."""
        try:
            answer = await self._unary(method, request, reply, timeout, metadata)
        except grpc.RpcError as error:
            if cancelled_by_caller():
                raise asyncio.CancelledError from None
            failure = from_rpc(error, self.target)
            if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                await self._missed()
            else:
                self._misses = 0
            raise failure from None
        except asyncio.CancelledError:
            if cancelled_by_caller():
                raise
            raise EtcdUnavailable(grpc.StatusCode.CANCELLED, "the connection was closed", self.target) from None
        self._misses = 0
        return answer

    async def _missed(self) -> None:
        self._misses += 1
        if self._misses >= _MISSES:
            self._misses = 0
            await self.reconnect()

    @abstractmethod
    async def _unary(self, method: str, request: Message, reply: type[R], timeout: float, metadata: Metadata) -> R: ...

    @abstractmethod
    async def reconnect(self) -> None:
        """Let later calls use a new connection; calls that are under way keep theirs."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection and what is under way on it."""


class _AioConnection:
    """A channel and how many calls are on it: closing it under a call would look like the caller's cancellation."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        self.calls = 0


class AioEndpoint(Endpoint):
    """Over grpc.aio, with streams."""

    def __init__(self, options: EtcdOptions, target: str) -> None:
        super().__init__(options, target)
        self._current = self._connect()
        self._retired: list[_AioConnection] = []

    def _connect(self) -> _AioConnection:
        return _AioConnection(self.target, self._credentials)

    @contextmanager
    def lend(self) -> Generator[grpc.aio.Channel]:
        """The channel for one call, which is not closed before the end of the block."""
        connection = self._current
        connection.calls += 1
        try:
            yield connection.channel
        finally:
            connection.calls -= 1

    async def _unary(self, method: str, request: Message, reply: type[R], timeout: float, metadata: Metadata) -> R:
        with self.lend() as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[Any, R] = channel.unary_unary(
                method, request_serializer=_serialize, response_deserializer=reply.FromString
            )
            return await call(request, timeout=timeout, metadata=metadata)

    async def reconnect(self) -> None:
        self._retired.append(self._current)
        self._current = self._connect()
        idle = [connection for connection in self._retired if not connection.calls]
        self._retired = [connection for connection in self._retired if connection.calls]
        for connection in idle:
            await connection.channel.close()

    async def close(self) -> None:
        for connection in (self._current, *self._retired):
            await connection.channel.close()


class ThreadedEndpoint(Endpoint):
    """Over the classic stack: single calls only, safe beside grpc.aio loops of other threads.

    `on_lost`, if given, is called (in one of gRPC's threads) when a connection that stood is gone.
    """

    def __init__(self, options: EtcdOptions, target: str, on_lost: Callable[[], None] | None = None) -> None:
        super().__init__(options, target)
        self._on_lost = on_lost
        self._channel = self._connect()

    def _connect(self) -> grpc.Channel:
        if self._credentials is None:
            channel = grpc.insecure_channel(self.target, options=_CHANNEL_OPTIONS)
        else:
            channel = grpc.secure_channel(self.target, self._credentials, options=_CHANNEL_OPTIONS)
        if self._on_lost is not None:
            # Five looks a second, 2 ms of CPU. grpc.aio waits without, but is not for a second loop: see above.
            channel.subscribe(_Tripwire(self._on_lost))
        return channel

    async def _unary(self, method: str, request: Message, reply: type[R], timeout: float, metadata: Metadata) -> R:
        callable_ = self._channel.unary_unary(
            method, request_serializer=_serialize, response_deserializer=reply.FromString
        )
        call: Any = callable_.future(request, timeout=timeout, metadata=metadata)
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def settle(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        call.add_done_callback(settle)
        try:
            await done.wait()
        finally:
            call.cancel()
        try:
            return call.result()
        except grpc.FutureCancelledError:
            raise EtcdUnavailable(grpc.StatusCode.CANCELLED, "the connection was closed", self.target) from None

    async def reconnect(self) -> None:
        self._channel.close()  # one caller, one call at a time: none is under way
        self._channel = self._connect()

    async def close(self) -> None:
        self._channel.close()


class _Tripwire:
    """Listens to a channel's states and tells when one that stood does no longer."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._stood = False

    def __call__(self, state: grpc.ChannelConnectivity) -> None:
        stands = state is grpc.ChannelConnectivity.READY
        if self._stood and not stands:
            self._on_lost()
        self._stood = stands


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def open_stream(
    channel: grpc.aio.Channel,
    method: str,
    requests: AsyncIterator[Message],
    reply: type[R],
    metadata: Metadata,
) -> grpc.aio.StreamStreamCall[Any, R]:
    """Start a stream without a limit of its own: the reader has to have one."""
    call: grpc.aio.StreamStreamMultiCallable[Any, R] = channel.stream_stream(
        method, request_serializer=_serialize, response_deserializer=reply.FromString
    )
    return call(requests, metadata=metadata)
