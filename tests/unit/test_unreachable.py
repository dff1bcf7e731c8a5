"""What gRPC said in each case when it was tried (grpcio 1.85.1), and what is made of it."""

from __future__ import annotations

import pytest

from mesh.unreachable import why

FAILED = "failed to connect to all addresses; last error: "
HANDSHAKE = (
    FAILED + "UNKNOWN: ipv4:10.0.0.5:2379: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:"
)
VERIFY = HANDSHAKE + "SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: "


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            FAILED + "UNKNOWN: ipv6:%5B::1%5D:1: Failed to connect to remote host: Connection refused",
            "Connection refused",
        ),
        (VERIFY + "certificate has expired: OK", "its certificate has expired"),
        (
            VERIFY + "unable to get local issuer certificate: OK",
            "its certificate is of no authority that is trusted here (--etcd-ca)",
        ),
        (
            FAILED + "UNKNOWN: ipv4:10.0.0.5:2379: Custom verification check failed with error: UNAUTHENTICATED: "
            "Hostname Verification Check failed.",
            "its certificate is for another host than it was asked at",
        ),
        (
            HANDSHAKE + "SSL routines:OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE: OK",
            "it does not accept the certificate that it was shown, if it was shown one (--etcd-cert, --etcd-key)",
        ),
        (
            HANDSHAKE + "SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid certificate verification context",
            "it does not speak TLS",
        ),
        (
            "errors resolving etcd.lab:2379: [field:hostname lookup error:address lookup failed for etcd.lab:2379: "
            "Domain name not found]",
            "its host cannot be found: Domain name not found",
        ),
        ("Stream removed (Socket closed)", "Stream removed (Socket closed)"),
        ("etcdserver: no leader", "etcdserver: no leader"),
    ],
)
def test_the_reason_is_told_and_the_flag_that_mends_it(said: str, meant: str) -> None:
    assert why(said, "--etcd-") == meant


def test_who_has_no_flags_is_told_of_none() -> None:
    assert why(FAILED + "UNAVAILABLE: ipv4:10.0.0.21:50051: Socket closed") == (
        "it hangs up: perhaps it speaks TLS and is asked without, or asks for a certificate"
    )
