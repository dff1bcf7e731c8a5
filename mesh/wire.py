"""The one place for gRPC habits: channels, servers, TLS, and statuses to and from MeshError.

Keepalive and the HTTP/2 ping timeout are set together: either alone does not notice a peer that was stopped; both do,
in about two seconds (measured).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from mesh.errors import ErrorKind, MeshError
from mesh.files import versions
from mesh.log import kv
from mesh.unreachable import why

log = logging.getLogger(__name__)

ERROR_DOMAIN = "mesh"
_DETAILS_KEY = "grpc-status-details-bin"
# Vision requests carry encoded pictures; the gateway bounds bodies well below this.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

_COMMON_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
]
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    *_COMMON_OPTIONS,
    ("grpc.enable_retries", 0),  # retry is decided in one place, the gateway's failover
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # which is the limit of one attempt to connect, handshakes included
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
SERVER_OPTIONS: list[tuple[str, int]] = [
    *_COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),  # a taken port must be an error, not a silent share
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. A client needs `ca` (or trusts the system's), a server `cert` and `key`.

    With `ca` on a server, clients must present a certificate that it signed; with `cert` and `key` on a client, that
    certificate is presented.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise MeshError(ErrorKind.INVALID_REQUEST, f"cannot read {path}: {error.strerror}") from None


def client_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Credentials of a TLS client; raises MeshError if a file cannot be read or used."""
    check_authority(tls)
    if tls.cert is not None or tls.key is not None:
        check_pair(tls)
    return grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.cert))


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials of a TLS server; raises MeshError if a file is missing or cannot be used.

    Files that are replaced count for connections from then on.
    """
    files = _ServerFiles(tls)
    renew: Any = files.renew  # None, for no change, is missing in its annotation
    return grpc.dynamic_ssl_server_credentials(files.read(), renew, require_client_authentication=tls.ca is not None)


def check_pair(tls: Tls) -> None:
    """Raise MeshError unless the certificate and the key are there and belong together."""
    if tls.key is None or tls.cert is None:
        raise MeshError(ErrorKind.INVALID_REQUEST, "TLS needs both a certificate and its key")
    for path in (tls.cert, tls.key):
        _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key)
    except (ssl.SSLError, OSError) as error:
        text = f"{tls.cert} and {tls.key} are no certificate and its key: {error.strerror or error}"
        raise MeshError(ErrorKind.INVALID_REQUEST, text) from None


def not_after(certificate: Path) -> float:
    """When the first certificate of a PEM file ends, in Unix time; raises OSError, ssl.SSLError or ValueError."""
    # The standard library reads certificates for its own tests only; another library for this one date is not worth it.
    decode = cast("Callable[[str], dict[str, Any]]", ssl._ssl._test_decode_cert)  # type: ignore[attr-defined]
    return ssl.cert_time_to_seconds(decode(str(certificate))["notAfter"])


def warn_of_expiry(certificate: Path | None) -> None:
    """Log it if a server's certificate has ended: it is presented all the same, and refused by each client."""
    if certificate is None or (ended := not_after(certificate)) > time.time():
        return
    date = time.strftime("%Y-%m-%d", time.gmtime(ended))
    log.warning("the certificate has expired: clients will refuse it", extra=kv(cert=str(certificate), expired=date))


def check_authority(tls: Tls) -> None:
    """Raise MeshError unless the authority's file, if there is one, holds a certificate."""
    if tls.ca is None:
        return
    _read(tls.ca)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.ca)
    except (ssl.SSLError, OSError) as error:
        text = f"{tls.ca} holds no certificate of an authority: {error.strerror or error}"
        raise MeshError(ErrorKind.INVALID_REQUEST, text) from None


class _ServerFiles:
    """Reads a server's files again when they have changed; gRPC asks at each handshake, in threads of its own."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen: object = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        self._seen = versions((tls.ca, tls.cert, tls.key))
        check_pair(tls)
        check_authority(tls)
        warn_of_expiry(tls.cert)
        pair = (_read(tls.key) or b"", _read(tls.cert) or b"")
        return grpc.ssl_server_certificate_configuration([pair], _read(tls.ca))

    def renew(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration, or None to go on with the one before."""
        if versions((self._tls.ca, self._tls.cert, self._tls.key)) == self._seen:
            return None
        try:
            return self.read()
        except MeshError as error:
            log.warning("new certificates cannot be used, going on with those before", extra=kv(why=error.message))
            return None


def channel(
    address: str,
    *,
    tls: Tls | None = None,
    options: Sequence[tuple[str, Any]] = (),
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """A channel with the mesh's habits. It connects on first use and reconnects by itself; close it."""
    all_options = [*CHANNEL_OPTIONS, *options]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=all_options, interceptors=interceptors)
    return grpc.aio.secure_channel(address, client_credentials(tls), options=all_options, interceptors=interceptors)


def bind(server: grpc.aio.Server, host: str, port: int, *, tls: Tls | None = None) -> int:
    """Bind a server to host:port (0 picks one) and return the port; raises MeshError if it is taken."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = (
            server.add_insecure_port(target) if tls is None else server.add_secure_port(target, server_credentials(tls))
        )
    except RuntimeError:
        bound = 0
    if not bound:
        raise MeshError(ErrorKind.INVALID_REQUEST, f"cannot listen on {target}: the port is taken or not allowed")
    return bound


class Calls(grpc.aio.ServerInterceptor):
    """The calls that a server is answering, so that it can be stopped with none of them left.

    `Server.stop` returns while cancelled calls still unwind, and a loop that ends then cancels them once more, which
    gRPC logs as an error with a traceback.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Note the call's task; gRPC asks in it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await continuation(handler_call_details)

    async def stop(self, server: grpc.aio.Server, grace: float) -> None:
        """Stop the server; calls have `grace` seconds to end by themselves, and as many to unwind once cancelled."""
        await server.stop(grace)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        await asyncio.sleep(0)  # gRPC's own task of a call ends one turn of the loop after it


def _status(error: MeshError) -> tuple[grpc.StatusCode, bytes]:
    """The gRPC code and the serialized google.rpc.Status with ErrorInfo of an error."""
    code = grpc.StatusCode[error.kind.value.grpc_status]
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=ERROR_DOMAIN)
    if error.param:
        info.metadata["param"] = error.param
    if error.retry_after is not None:
        info.metadata["retry_after"] = f"{error.retry_after:g}"
    detail = any_pb2.Any()
    detail.Pack(info)
    number: int = code.value[0]  # pyright: ignore[reportUnknownVariableType]
    status = status_pb2.Status(code=number, message=error.message, details=[detail])
    return code, status.SerializeToString()


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: MeshError, *metadata: tuple[str, str | bytes]
) -> NoReturn:
    """End a call with the error's status and details, and with more trailing metadata if there is any."""
    code, details = _status(error)
    await context.abort(code, error.message, trailing_metadata=((_DETAILS_KEY, details), *metadata))
    raise AssertionError("abort returned")


_FALLBACK = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorKind.INVALID_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: ErrorKind.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorKind.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: ErrorKind.MODEL_NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorKind.OVERLOADED,
    grpc.StatusCode.UNIMPLEMENTED: ErrorKind.UNSUPPORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorKind.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE: ErrorKind.WORKER_LOST,
    grpc.StatusCode.CANCELLED: ErrorKind.WORKER_LOST,
}


def cancelled_by_caller() -> bool:
    """Whether the current task itself is asked to stop, as opposed to a call inside it that was cancelled.

    To be asked after any error of a call: when a task is cancelled in the moment in which its call ends by itself, gRPC
    catches the cancellation and raises the call's error instead, and a loop that tries again would never end.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def from_rpc_error(error: grpc.aio.AioRpcError, flags: str = "", *, peer: str = "") -> MeshError:
    """The MeshError behind a failed call: from its ErrorInfo if it has one, else from its status code.

    `flags`: see mesh.unreachable. `peer` is who was called: what gRPC says of it does not name it.
    """
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            rebuilt = _from_details(value)
            if rebuilt is not None:
                return rebuilt
    kind = _FALLBACK.get(error.code(), ErrorKind.ENGINE_FAILED)
    said = why(error.details() or error.code().name, flags)
    return MeshError(kind, f"{peer}: {said}" if peer else said)


def _from_details(serialized: bytes) -> MeshError | None:
    try:
        status = status_pb2.Status.FromString(serialized)
    except Exception:
        return None  # another server's details in a format of its own: the status code still tells the kind
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            retry = info.metadata.get("retry_after")
            return MeshError.from_code(
                info.reason,
                status.message,
                param=info.metadata.get("param") or None,
                retry_after=float(retry) if retry else None,
            )
    return None
