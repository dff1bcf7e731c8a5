"""Statuses to and from MeshError, and what is refused before anything is on the wire.

That both ends agree over a real connection is shown in tests/component.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from mesh.errors import ErrorKind, MeshError
from mesh.wire import CHANNEL_OPTIONS, SERVER_OPTIONS, Tls, client_credentials, from_rpc_error, server_credentials


def rpc_error(code: grpc.StatusCode, message: str, details: bytes | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata() if details is None else grpc.aio.Metadata(("grpc-status-details-bin", details))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=message)


def details(reason: str, *, domain: str = "mesh", **metadata: str) -> bytes:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata))
    return status_pb2.Status(code=3, message="whole message", details=[packed]).SerializeToString()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, ErrorKind.INVALID_REQUEST),
        (grpc.StatusCode.NOT_FOUND, ErrorKind.MODEL_NOT_FOUND),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorKind.OVERLOADED),
        (grpc.StatusCode.UNIMPLEMENTED, ErrorKind.UNSUPPORTED),
        (grpc.StatusCode.UNAVAILABLE, ErrorKind.WORKER_LOST),
        (grpc.StatusCode.CANCELLED, ErrorKind.WORKER_LOST),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ErrorKind.DEADLINE_EXCEEDED),
        (grpc.StatusCode.INTERNAL, ErrorKind.ENGINE_FAILED),
        (grpc.StatusCode.DATA_LOSS, ErrorKind.ENGINE_FAILED),
    ],
)
def test_without_details_the_code_tells_the_kind(code: grpc.StatusCode, kind: ErrorKind):
    error = from_rpc_error(rpc_error(code, "why"))
    assert (error.kind, error.message) == (kind, "why")


def test_details_win_over_the_code():
    given = details("overloaded", param="n", retry_after="2.5")
    error = from_rpc_error(rpc_error(grpc.StatusCode.INTERNAL, "short", given))
    assert (error.kind, error.message, error.param, error.retry_after) == (
        ErrorKind.OVERLOADED,
        "whole message",
        "n",
        2.5,
    )


@pytest.mark.parametrize("given", [b"\xff\xff", b"", details("overloaded", domain="elsewhere")])
def test_details_of_others_are_ignored(given: bytes):
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "why", given))
    assert (error.kind, error.message) == (ErrorKind.WORKER_LOST, "why")


def test_keepalive_and_ping_timeout_are_set_on_both_ends():
    for options in (dict(CHANNEL_OPTIONS), dict(SERVER_OPTIONS)):
        assert options["grpc.keepalive_time_ms"] <= 2_000
        assert options["grpc.http2.ping_timeout_ms"] <= 2_000
    # A server ends the connection of a client that pings more often than it allows.
    allowed = dict(SERVER_OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    assert allowed < dict(CHANNEL_OPTIONS)["grpc.keepalive_time_ms"]


def test_a_server_needs_certificate_and_key(tmp_path: Path):
    cert = tmp_path / "cert.pem"
    cert.write_text("x")
    with pytest.raises(MeshError, match="both a certificate and its key"):
        server_credentials(Tls(cert=cert))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(MeshError, match=r"cannot read .*missing\.pem: No such file"):
        client_credentials(Tls(ca=tmp_path / "missing.pem"))
