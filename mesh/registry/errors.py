"""How a call to etcd fails. These stay inside the registry: what leaves it is a MeshError (see `probe`)."""

from __future__ import annotations

import grpc

from mesh.unreachable import why

# The call may succeed on another endpoint or later. CANCELLED is one of them: the server may notice the deadline first.
_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
# etcd has no status code of its own for a token that is no longer good, and spells it in several ways.
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")
_DENIED = ("authentication failed", "permission denied", *_STALE_TOKEN)


class EtcdError(Exception):
    """A call that etcd refused; `code` is the gRPC status, `detail` etcd's own sentence."""

    def __init__(self, code: grpc.StatusCode, detail: str, endpoint: str = "") -> None:
        where = f"etcd at {endpoint}" if endpoint else "etcd"
        super().__init__(f"{where}: {detail} ({code.name})")
        self.code = code
        self.detail = detail

    @property
    def stale_token(self) -> bool:
        """The token of our user has expired, or etcd has forgotten it: authenticate again."""
        return self.code is grpc.StatusCode.UNAUTHENTICATED or any(text in self.detail for text in _STALE_TOKEN)

    @property
    def denied(self) -> bool:
        """The user, the password or the user's rights are not what the call needs."""
        return self.stale_token or any(text in self.detail for text in _DENIED)

    @property
    def not_found(self) -> bool:
        """The lease is gone."""
        return self.code is grpc.StatusCode.NOT_FOUND


class EtcdUnavailable(EtcdError):
    """No answer: unreachable, too slow, without a leader, or a stream that broke. Trying again may help."""


def from_rpc(error: grpc.RpcError, endpoint: str) -> EtcdError:
    """The EtcdError for an error that gRPC raised."""
    # Errors of both stacks, grpc and grpc.aio, are calls too, which the base class does not say.
    code: grpc.StatusCode = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
    detail: str = getattr(error, "details", lambda: None)() or str(code.value)
    return make_error(code, why(detail, "--etcd-"), endpoint)


def make_error(code: grpc.StatusCode, detail: str, endpoint: str) -> EtcdError:
    """The EtcdError, or EtcdUnavailable, of a status."""
    kind = EtcdUnavailable if code in _TRANSIENT else EtcdError
    return kind(code, detail, endpoint)


def too_slow(what: str, limit: float, endpoint: str) -> EtcdUnavailable:
    """The error of a wait that we gave up."""
    return EtcdUnavailable(grpc.StatusCode.DEADLINE_EXCEEDED, f"{what} not within {limit:g} s", endpoint)
