"""The embedded registry: a part of etcd's v3 gRPC API, served in process, for one machine without an etcd.

Spoken: KV (Range, Put, DeleteRange, Txn, Compact), Watch, Lease (all of it), Maintenance (Status, and Alarm to the
extent that `etcdctl endpoint health` asks), Cluster (MemberList), and Auth (Authenticate, which answers that
authentication is off). So `etcdctl` works, and the mesh's own code does not know the difference.

Its limits: one process, in memory only (workers register again by themselves after a restart), a bounded history,
no users. Bind it to loopback, or give it TLS with client certificates. It is not for production: run etcd there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from mesh import wire
from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.log import kv
from mesh.registry.embedded import txn
from mesh.registry.embedded.leases import Leases
from mesh.registry.embedded.refusal import Refusal
from mesh.registry.embedded.store import MAX_REQUEST_BYTES, Store
from mesh.registry.embedded.streams import WatchStream

log = logging.getLogger(__name__)

Q = TypeVar("Q", bound=Message)

# What `etcdctl endpoint status` shows: the API's version, and what it is.
VERSION = "3.5.0+embedded"

_SERVER_OPTIONS: list[tuple[str, int]] = [
    *wire.SERVER_OPTIONS,
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES + 512 * 1024),
    ("grpc.max_send_message_length", -1),
]
_EXPIRY_SECONDS = 0.5
_PROGRESS_SECONDS = 600.0
_GRACE_SECONDS = 1.0
# Requests of one watch stream that wait to be handled.
_INBOX = 256


class _Answer(Protocol):
    """A response: it has a header."""

    @property
    def header(self) -> pb.ResponseHeader: ...


A = TypeVar("A", bound=_Answer)
Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddedRegistry:
    """`start` it on an event loop, `stop` it there; or `async with` it on a free port of loopback."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store(Leases())
        self._calls = wire.Calls()
        self._server: grpc.aio.Server | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._address = ""
        # Another start is another store: etcd's clients tell stores apart by these.
        self._cluster_id = random.getrandbits(63)
        self._member_id = random.getrandbits(63)

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, tls: wire.Tls | None = None) -> int:
        """Serve on host:port (0 picks one); returns the port. Raises MeshError if it is taken."""
        self._stopping.clear()
        server = grpc.aio.server(options=_SERVER_OPTIONS, interceptors=[self._calls])
        server.add_generic_rpc_handlers(self._handlers())
        bound = wire.bind(server, host, port, tls=tls)
        await server.start()
        self._server = server
        self._address = f"{'http' if tls is None else 'https'}://{host}:{bound}"
        self._expiry = asyncio.create_task(self._expire(), name="registry leases")
        log.info("serving the embedded registry", extra=kv(address=self._address))
        return bound

    async def stop(self) -> None:
        """End all calls and give the port back; the data is lost with the object."""
        if self._expiry is not None:
            self._expiry.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._expiry
        self._stopping.set()
        if self._server is not None:
            await self._calls.stop(self._server, _GRACE_SECONDS)
        self._server = self._expiry = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """http(s)://host:port, once started."""
        return self._address

    async def _expire(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_EXPIRY_SECONDS)
            now = time.monotonic()
            late, last = now - last - _EXPIRY_SECONDS, now
            # A process that stood still (stopped, swapped out, a blocked loop) has heard no renewals meanwhile.
            if late > _EXPIRY_SECONDS:
                self.store.leases.forgive(late)
            for lease in self.store.leases.expired():
                self.store.revoke(lease)

    # --- KV

    async def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        self.store.check_range(request)
        self.store.check_range_now(request)
        return self.store.range(request)

    async def _put(self, request: pb.PutRequest) -> pb.PutResponse:
        self.store.check_space(request.ByteSize())
        self.store.check_put(request)
        if request.lease:
            self.store.leases.find(request.lease)  # outside of a transaction, etcd complains of the lease first
        self.store.check_put_now(request)
        with self.store.writing():
            return self.store.put(request)

    async def _delete(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        self.store.check_delete(request)
        with self.store.writing():
            return self.store.delete(request)

    async def _txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        self.store.check_space(request.ByteSize())
        return txn.run(self.store, request)

    async def _compact(self, request: pb.CompactionRequest) -> pb.CompactionResponse:
        self.store.compact(request.revision)
        return self._now(pb.CompactionResponse())

    # --- Lease

    async def _grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantResponse:
        lease = self.store.leases.grant(request.ttl, request.id)
        return self._now(pb.LeaseGrantResponse(id=lease.id, ttl=lease.ttl))

    async def _revoke(self, request: pb.LeaseRevokeRequest) -> pb.LeaseRevokeResponse:
        self.store.revoke(request.id)
        return self._now(pb.LeaseRevokeResponse())

    async def _time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        try:
            lease = self.store.leases.find(request.id)
        except Refusal:
            return self._now(pb.LeaseTimeToLiveResponse(id=request.id, ttl=-1))
        keys = sorted(lease.keys) if request.keys else ()
        left = self.store.leases.left(lease)
        return self._now(pb.LeaseTimeToLiveResponse(id=lease.id, ttl=left, granted_ttl=lease.ttl, keys=keys))

    async def _leases(self, _: pb.LeaseLeasesRequest) -> pb.LeaseLeasesResponse:
        leases = [pb.LeaseStatus(id=lease) for lease in self.store.leases.ids()]
        return self._now(pb.LeaseLeasesResponse(leases=leases))

    async def _keep_alive(self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], context: Context) -> None:
        async for request in requests:
            left = self.store.leases.renew(request.id)
            answer = self._now(pb.LeaseKeepAliveResponse(id=request.id, ttl=left))
            await context.write(self._signed(answer))

    # --- Watch

    async def _watch(self, requests: AsyncIterator[pb.WatchRequest], context: Context) -> None:
        stream = WatchStream(self.store)
        inbox: asyncio.Queue[pb.WatchRequest] = asyncio.Queue(_INBOX)
        news = asyncio.Event()

        async def read() -> None:
            async for request in requests:
                await inbox.put(request)
                news.set()

        async def report_progress() -> None:
            while True:
                await asyncio.sleep(_PROGRESS_SECONDS)
                stream.report_progress()
                news.set()

        with contextlib.closing(_Listening(self.store, news.set)):
            # It lasts until the client or the server ends the call: either cancels this task.
            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                group.create_task(report_progress())
                while True:
                    await news.wait()
                    news.clear()
                    while not inbox.empty():
                        stream.handle(inbox.get_nowait())
                    for response in stream.take():
                        await context.write(self._signed(response))

    # --- the rest

    async def _status(self, _: pb.StatusRequest) -> pb.StatusResponse:
        size, revision = self.store.bytes, self.store.revision
        return self._now(
            pb.StatusResponse(
                version=VERSION,
                db_size=size,
                db_size_in_use=size,
                leader=self._member_id,
                raft_index=revision,
                raft_applied_index=revision,
                raft_term=1,
            )
        )

    async def _alarm(self, request: pb.AlarmRequest) -> pb.AlarmResponse:
        if request.action:
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "the embedded registry has no alarms")
        return self._now(pb.AlarmResponse())

    async def _members(self, _: pb.MemberListRequest) -> pb.MemberListResponse:
        member = pb.Member(id=self._member_id, name="embedded", client_urls=[self._address])
        return self._now(pb.MemberListResponse(members=[member]))

    async def _authenticate(self, _: pb.AuthenticateRequest) -> pb.AuthenticateResponse:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "authentication is not enabled")

    # --- plumbing

    def _now(self, answer: A) -> A:
        answer.header.revision = self.store.revision
        return answer

    def _signed(self, answer: A) -> A:
        answer.header.cluster_id = self._cluster_id
        answer.header.member_id = self._member_id
        answer.header.raft_term = 1
        return answer

    def _unary(
        self, request: type[Q], behaviour: Callable[[Q], Coroutine[Any, Any, _Answer]]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(message: Q, context: Context) -> _Answer:
            try:
                return self._signed(await behaviour(message))
            except Refusal as refusal:
                return await context.abort(refusal.code, refusal.detail)

        return grpc.unary_unary_rpc_method_handler(handle, request.FromString, _serialize)

    def _stream(
        self, request: type[Q], behaviour: Callable[[AsyncIterator[Q], Context], Awaitable[None]]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(messages: AsyncIterator[Q], context: Context) -> None:
            work = asyncio.ensure_future(behaviour(messages, context))
            stop = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                stop.cancel()
                await asyncio.wait({work, stop})
            if not work.cancelled():
                return work.result()
            return await context.abort(grpc.StatusCode.UNAVAILABLE, "the registry is stopping")

        return grpc.stream_stream_rpc_method_handler(handle, request.FromString, _serialize)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        services = {
            "KV": {
                "Range": self._unary(pb.RangeRequest, self._range),
                "Put": self._unary(pb.PutRequest, self._put),
                "DeleteRange": self._unary(pb.DeleteRangeRequest, self._delete),
                "Txn": self._unary(pb.TxnRequest, self._txn),
                "Compact": self._unary(pb.CompactionRequest, self._compact),
            },
            "Lease": {
                "LeaseGrant": self._unary(pb.LeaseGrantRequest, self._grant),
                "LeaseRevoke": self._unary(pb.LeaseRevokeRequest, self._revoke),
                "LeaseKeepAlive": self._stream(pb.LeaseKeepAliveRequest, self._keep_alive),
                "LeaseTimeToLive": self._unary(pb.LeaseTimeToLiveRequest, self._time_to_live),
                "LeaseLeases": self._unary(pb.LeaseLeasesRequest, self._leases),
            },
            "Watch": {"Watch": self._stream(pb.WatchRequest, self._watch)},
            "Maintenance": {
                "Status": self._unary(pb.StatusRequest, self._status),
                "Alarm": self._unary(pb.AlarmRequest, self._alarm),
            },
            "Cluster": {"MemberList": self._unary(pb.MemberListRequest, self._members)},
            "Auth": {"Authenticate": self._unary(pb.AuthenticateRequest, self._authenticate)},
        }
        return tuple(
            grpc.method_handlers_generic_handler(f"etcdserverpb.{name}", methods) for name, methods in services.items()
        )


class _Listening:
    """A listener of the store until closed."""

    def __init__(self, store: Store, listener: Callable[[], None]) -> None:
        self.close = store.listen(listener)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
