"""A thin asyncio client of etcd's v3 API: what a registry needs, with failover, authentication and limited waits.

Every call tries each endpoint at most once, each time for `EtcdOptions.timeout` seconds at most, and raises
EtcdUnavailable if none answered or EtcdError if etcd refused. A write that is retried may have happened twice.
Keys and values are bytes. See DESIGN "Registry" for the reasons behind a client of our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from mesh.errors import ErrorKind, MeshError, invalid
from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry.endpoint import AioEndpoint, Endpoint, Metadata, R
from mesh.registry.errors import EtcdError, EtcdUnavailable
from mesh.registry.options import EtcdOptions
from mesh.registry.watch import Watch

E = TypeVar("E", bound=Endpoint)


def prefix_end(prefix: bytes) -> bytes:
    """The `range_end` for all keys with this prefix."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


class EtcdCalls(Generic[E]):
    """etcd's single calls over a list of endpoints; used from one event loop."""

    def __init__(self, options: EtcdOptions, endpoints: Sequence[E]) -> None:
        self.options = options
        self._endpoints = list(endpoints)
        self._preferred = 0
        self._token: str | None = None
        self._token_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Calls under way fail with EtcdUnavailable."""
        for endpoint in self._endpoints:
            await endpoint.close()

    async def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        timeout: float | None = None,
    ) -> pb.RangeResponse:
        """Read one key, or the keys in [key, range_end), as the majority of the cluster has them (linearizable)."""
        request = pb.RangeRequest(
            key=key, range_end=range_end, limit=limit, revision=revision, keys_only=keys_only, count_only=count_only
        )
        return await self._call("/etcdserverpb.KV/Range", request, pb.RangeResponse, timeout)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> pb.PutResponse:
        """Write one key; with a lease it goes when the lease goes."""
        request = pb.PutRequest(key=key, value=value, lease=lease)
        return await self._call("/etcdserverpb.KV/Put", request, pb.PutResponse)

    async def put_if_unchanged(self, key: bytes, value: bytes, revision: int) -> bool:
        """Write one key unless it was written after that revision (0: unless it is there); returns whether it was."""
        unchanged = pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision)
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))
        return (await self.txn([unchanged], success=[put])).succeeded

    async def delete_range(self, key: bytes, range_end: bytes = b"") -> int:
        """Delete one key, or those in [key, range_end); returns how many there were."""
        request = pb.DeleteRangeRequest(key=key, range_end=range_end)
        answer = await self._call("/etcdserverpb.KV/DeleteRange", request, pb.DeleteRangeResponse)
        return answer.deleted

    async def txn(
        self,
        compare: Iterable[pb.Compare],
        success: Iterable[pb.RequestOp] = (),
        failure: Iterable[pb.RequestOp] = (),
        *,
        timeout: float | None = None,
    ) -> pb.TxnResponse:
        """Do `success` if all of `compare` hold, else `failure`, in one step."""
        request = pb.TxnRequest(compare=compare, success=success, failure=failure)
        return await self._call("/etcdserverpb.KV/Txn", request, pb.TxnResponse, timeout)

    async def compact(self, revision: int) -> None:
        """Forget all history before the revision."""
        request = pb.CompactionRequest(revision=revision)
        await self._call("/etcdserverpb.KV/Compact", request, pb.CompactionResponse)

    async def grant(self, ttl: int, *, timeout: float | None = None) -> int:
        """Make a lease of `ttl` seconds; returns its id. etcd makes very short ones longer (2 s by default)."""
        request = pb.LeaseGrantRequest(ttl=ttl)
        answer = await self._call("/etcdserverpb.Lease/LeaseGrant", request, pb.LeaseGrantResponse, timeout)
        return answer.id

    async def renew(self, lease: int, *, timeout: float | None = None) -> int:
        """Give a lease its whole time again; returns the seconds, 0 if there is no such lease any more."""
        # A stream in etcd's API. One request and the end of ours get one answer and the end of etcd's, which on the
        # wire is what a single call is.
        request = pb.LeaseKeepAliveRequest(id=lease)
        answer = await self._call("/etcdserverpb.Lease/LeaseKeepAlive", request, pb.LeaseKeepAliveResponse, timeout)
        return max(answer.ttl, 0)

    async def revoke(self, lease: int, *, timeout: float | None = None) -> None:
        """End a lease and delete its keys; one that is gone already is fine."""
        request = pb.LeaseRevokeRequest(id=lease)
        try:
            await self._call("/etcdserverpb.Lease/LeaseRevoke", request, pb.LeaseRevokeResponse, timeout)
        except EtcdError as error:
            if not error.not_found:
                raise

    async def time_to_live(self, lease: int) -> pb.LeaseTimeToLiveResponse:
        """What a lease has left (`ttl`, -1 if there is none) and its keys."""
        request = pb.LeaseTimeToLiveRequest(id=lease, keys=True)
        return await self._call("/etcdserverpb.Lease/LeaseTimeToLive", request, pb.LeaseTimeToLiveResponse)

    async def status(self) -> pb.StatusResponse:
        """Version and size of the member that answers."""
        return await self._call("/etcdserverpb.Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)

    async def _call(self, method: str, request: Message, reply: type[R], timeout: float | None = None) -> R:
        limit = self.options.timeout if timeout is None else timeout
        failure: EtcdUnavailable | None = None
        for _ in self._endpoints:
            endpoint = self._endpoints[self._preferred]
            try:
                return await self._with_token(endpoint, method, request, reply, limit)
            except EtcdUnavailable as error:
                failure = error
                self._move_on(endpoint)
        assert failure is not None, "a client has at least one endpoint"
        raise failure

    def _move_on(self, failed: Endpoint) -> None:
        # Several calls may fail on one endpoint at once; only the first of them moves on.
        if self._endpoints[self._preferred] is failed:
            self._preferred = (self._preferred + 1) % len(self._endpoints)

    async def _with_token(self, endpoint: Endpoint, method: str, request: Message, reply: type[R], limit: float) -> R:
        token = await self._authenticate(endpoint)
        try:
            return await endpoint.unary(method, request, reply, timeout=limit, metadata=token)
        except EtcdError as error:
            if self.options.user is None or not error.stale_token:
                raise
        self._forget(token)
        token = await self._authenticate(endpoint)
        return await endpoint.unary(method, request, reply, timeout=limit, metadata=token)

    async def _authenticate(self, endpoint: Endpoint) -> Metadata:
        """The metadata with the token of our user: the one at hand, else a new one."""
        if self.options.user is None:
            return ()
        async with self._token_lock:
            if self._token is None:
                self._token = await self._new_token(endpoint)
            return (("token", self._token),) if self._token else ()

    async def _new_token(self, endpoint: Endpoint) -> str:
        request = pb.AuthenticateRequest(name=self.options.user or "", password=self.options.password or "")
        method, limit = "/etcdserverpb.Auth/Authenticate", self.options.timeout
        try:
            return (await endpoint.unary(method, request, pb.AuthenticateResponse, timeout=limit)).token
        except EtcdError as error:
            # As etcd's own clients do: a user is no mistake where none is asked for.
            if error.code is grpc.StatusCode.FAILED_PRECONDITION and "not enabled" in error.detail:
                return ""
            raise

    def _forget(self, token: Metadata) -> None:
        # Unless another call has renewed it meanwhile.
        if (("token", self._token),) == token or not self._token:
            self._token = None


class EtcdClient(EtcdCalls[AioEndpoint]):
    """The client for a program's main event loop: single calls and watches. `async with` it, or `close` it."""

    def __init__(self, options: EtcdOptions) -> None:
        super().__init__(options, [AioEndpoint(options, target) for target in options.endpoints])

    def watch(self, key: bytes, range_end: bytes = b"", *, start_revision: int = 0, quiet: float = 5.0) -> Watch:
        """The changes of one key, or of [key, range_end), from `start_revision` (0: from now) on.

        `async with client.watch(...) as changes: async for events in changes: ...`. It ends only by an exception:
        EtcdUnavailable on any break, also when etcd does not answer a question after `quiet` seconds without news
        within as many more; EtcdError when refused. It has seen its share then: list again.
        """
        request = pb.WatchCreateRequest(key=key, range_end=range_end, start_revision=start_revision)
        endpoint = self._endpoints[self._preferred]
        return Watch(self, endpoint, request, timeout=self.options.timeout, quiet=quiet)

    async def token_for(self, endpoint: AioEndpoint) -> Metadata:
        """The metadata for a stream on this endpoint."""
        return await self._authenticate(endpoint)

    def stream_failed(self, endpoint: AioEndpoint, error: EtcdError, token: Metadata) -> None:
        """A stream broke: the next one tries another endpoint, with a new token if that was the reason."""
        if error.denied:
            self._forget(token)
        else:
            self._move_on(endpoint)


async def probe(options: EtcdOptions, prefix: str, *, write: bool = False) -> None:
    """Check once, at start, that etcd answers and lets us read (and write) below the prefix.

    Raises MeshError: invalid_request if it cannot be reached, unauthorized if it refuses user, password or rights.
    """
    first = prefix.encode()
    never = pb.Compare(key=first, target=pb.Compare.VERSION, result=pb.Compare.LESS, version=0)
    put = pb.RequestOp(request_put=pb.PutRequest(key=first + b"probe"))
    async with EtcdClient(options) as client:
        try:
            await client.range(first, prefix_end(first), count_only=True)
            if write:
                # etcd checks the rights of both branches of a transaction before it runs one.
                await client.txn([never], success=[put])
        except EtcdUnavailable as error:
            raise invalid("etcd", f"no etcd answers at {options.where}: {error.detail}") from None
        except EtcdError as error:
            kind = ErrorKind.UNAUTHORIZED if error.denied else ErrorKind.INVALID_REQUEST
            nobody = " (no --etcd-user was given)" if error.denied and options.user is None else ""
            raise MeshError(kind, f"etcd at {options.where} refuses: {error.detail}{nobody}", param="etcd") from None
