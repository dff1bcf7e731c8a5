"""Where etcd is: URLs and advertised addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import ErrorKind, MeshError
from mesh.registry import EtcdOptions, check_advertised, prefix_end
from mesh.registry.backoff import Backoff
from mesh.wire import Tls


@pytest.mark.parametrize(
    ("url", "endpoints", "tls"),
    [
        ("http://10.0.0.1:2379", ("10.0.0.1:2379",), None),
        ("10.0.0.1:1234", ("10.0.0.1:1234",), None),
        ("etcd.lab", ("etcd.lab:2379",), None),
        ("https://a:1/", ("a:1",), Tls()),
        ("http://a:1, http://b:2,c:3", ("a:1", "b:2", "c:3"), None),
        ("http://[::1]:5", ("[::1]:5",), None),
    ],
)
def test_urls(url: str, endpoints: tuple[str, ...], tls: Tls | None) -> None:
    options = EtcdOptions.from_url(url)
    assert options.endpoints == endpoints
    assert options.tls == tls


def test_certificates_mean_tls() -> None:
    ca = Path("ca.pem")
    assert EtcdOptions.from_url("a:1", ca=ca).tls == Tls(ca=ca)


@pytest.mark.parametrize(
    "url",
    [
        "",
        " , ",
        "ftp://a:1",
        "http://",
        "http://a:port",
        "http://a:99999",
        "http://u:p@a:1",
        "http://a:1/v3",
        "a:1?x=1",
    ],
)
def test_bad_urls_are_refused(url: str) -> None:
    with pytest.raises(MeshError) as caught:
        EtcdOptions.from_url(url)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.param == "etcd"


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("http://a:1,https://b:1", {}),
        ("http://a:1", {"ca": Path("ca.pem")}),
        ("https://a:1", {"cert": Path("cert.pem")}),
        ("http://a:1", {"user": "me"}),
    ],
)
def test_contradictions_are_refused(url: str, more: dict[str, Path]) -> None:
    with pytest.raises(MeshError):
        EtcdOptions.from_url(url, **more)  # pyright: ignore[reportArgumentType]


def test_the_password_is_not_printed() -> None:
    assert "secret" not in repr(EtcdOptions.from_url("a:1", user="me", password="secret"))


@pytest.mark.parametrize(
    ("address", "etcd"),
    [
        ("10.1.2.3:50051", "http://10.0.0.1:2379"),
        ("worker-1:50051", "http://10.0.0.1:2379"),
        ("127.0.0.1:50051", "http://127.0.0.1:2379"),
        ("localhost:50051", "http://[::1]:2379,http://localhost:2380"),
        ("[fe80::1]:50051", "http://10.0.0.1:2379"),
    ],
)
def test_addresses_that_others_can_reach(address: str, etcd: str) -> None:
    check_advertised(address, EtcdOptions.from_url(etcd))


@pytest.mark.parametrize(
    ("address", "etcd"),
    [
        ("127.0.0.1:50051", "http://10.0.0.1:2379"),
        ("localhost:50051", "http://etcd.lab:2379"),
        ("[::1]:50051", "http://127.0.0.1:2379,http://10.0.0.1:2379"),
        ("0.0.0.0:50051", "http://127.0.0.1:2379"),
        ("[::]:50051", "http://10.0.0.1:2379"),
        (":50051", "http://10.0.0.1:2379"),
    ],
)
def test_addresses_that_others_cannot_reach_are_refused(address: str, etcd: str) -> None:
    with pytest.raises(MeshError) as caught:
        check_advertised(address, EtcdOptions.from_url(etcd))
    assert address in caught.value.message


def test_prefix_end() -> None:
    assert prefix_end(b"/mesh/") == b"/mesh0"
    assert prefix_end(b"a\xff") == b"b"
    assert prefix_end(b"\xff") == prefix_end(b"") == b"\0"


def test_backoff_grows_to_its_limit_and_starts_again() -> None:
    backoff = Backoff(first=1, most=4)
    waits = [backoff.next() for _ in range(5)]
    for wait, step in zip(waits, [1, 2, 4, 4, 4], strict=True):
        assert step / 2 <= wait <= step
    backoff.reset()
    assert backoff.next() <= 1
