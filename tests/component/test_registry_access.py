"""Getting into etcd: certificates, users, and what `probe` says at start when it cannot be done."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest

from mesh.errors import ErrorKind, MeshError
from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry import Announcer, EmbeddedRegistry, EtcdClient, EtcdError, EtcdOptions, probe
from mesh.registry.endpoint import AioEndpoint
from mesh.wire import Tls
from tests.component.registry_rig import announced, make_record, mirrored, records
from tests.etcd_server import EtcdServer, make_certificates
from tests.harness import eventually, free_port

TOKEN_TTL = 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_certificates(tmp_path_factory.mktemp("theirs"))


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncGenerator[EtcdServer]:
    """An etcd with users: root may do all, reader only read."""
    flags = ["--unsafe-no-fsync", f"--auth-token-ttl={TOKEN_TTL}", "--bcrypt-cost=4"]
    async with EtcdServer(tmp_path, arguments=flags) as server:
        server.ctl("user", "add", "root:secret")
        server.ctl("user", "grant-role", "root", "root")
        server.ctl("role", "add", "reading")
        server.ctl("role", "grant-permission", "reading", "--prefix=true", "read", "/mesh/")
        server.ctl("user", "add", "reader:read")
        server.ctl("user", "grant-role", "reader", "reading")
        server.ctl("auth", "enable")
        yield server


async def why_not(options: EtcdOptions, *, write: bool = False) -> MeshError:
    """What `probe` complains of."""
    with pytest.raises(MeshError) as caught:
        await probe(dataclasses.replace(options, timeout=1.0), "/mesh/v1/", write=write)
    assert caught.value.param == "etcd"
    return caught.value


async def test_client_certificates(tmp_path: Path, certificates: Tls, strangers: Tls) -> None:
    async with EtcdServer(tmp_path, tls=certificates, arguments=["--unsafe-no-fsync"]) as etcd:
        await probe(etcd.options(), "/mesh/", write=True)
        async with announced(etcd.options()), mirrored(etcd.options()) as seen:
            await eventually(lambda: seen.workers == {"w1"}, within=5)
            assert set(await records(etcd.options())) == {"w1"}
        for wrong in (
            etcd.options(ca=strangers.ca),
            etcd.options(cert=strangers.cert, key=strangers.key),
            etcd.options(cert=None, key=None),
            EtcdOptions.from_url(f"http://127.0.0.1:{etcd.port}"),
        ):
            assert (await why_not(wrong)).kind is ErrorKind.INVALID_REQUEST


async def test_the_embedded_registry_with_client_certificates(certificates: Tls, strangers: Tls) -> None:
    registry = EmbeddedRegistry()
    port = await registry.start(tls=certificates)
    try:
        assert registry.address == f"https://127.0.0.1:{port}"
        options = EtcdOptions((f"127.0.0.1:{port}",), tls=certificates)
        await probe(options, "/mesh/", write=True)
        for wrong in (Tls(ca=certificates.ca), dataclasses.replace(strangers, ca=certificates.ca), None):
            await why_not(dataclasses.replace(options, tls=wrong))
    finally:
        await registry.stop()


async def test_a_certificate_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    options = EtcdOptions.from_url("https://127.0.0.1:1", ca=tmp_path / "missing.pem")
    with pytest.raises(MeshError, match=r"missing\.pem"):
        await probe(options, "/mesh/")
    with pytest.raises(MeshError, match=r"missing\.pem"):
        Announcer(options, make_record()).start()


async def test_nobody_there() -> None:
    port = free_port()
    error = await why_not(EtcdOptions.from_url(f"127.0.0.1:{port}"))
    assert error.kind is ErrorKind.INVALID_REQUEST
    assert f"127.0.0.1:{port}" in error.message
    assert "refused" in error.message


async def test_users_and_rights(guarded: EtcdServer) -> None:
    await probe(guarded.options(user="root", password="secret"), "/mesh/", write=True)
    reader = guarded.options(user="reader", password="read")
    await probe(reader, "/mesh/")
    for options, write in (
        (guarded.options(), False),
        (guarded.options(user="root", password="wrong"), False),
        (guarded.options(user="nobody", password="secret"), False),
        (reader, True),
    ):
        assert (await why_not(options, write=write)).kind is ErrorKind.UNAUTHORIZED
    async with EtcdClient(reader) as client:
        with pytest.raises(EtcdError) as caught:
            await client.range(b"/elsewhere")
        assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.denied


async def test_an_expired_token_is_renewed(guarded: EtcdServer) -> None:
    options = guarded.options(user="root", password="secret")
    async with EtcdClient(options) as client:
        await client.put(b"k", b"1")
        await until_tokens_have_expired(options)
        await client.put(b"k", b"2")
        assert (await client.range(b"k")).kvs[0].value == b"2"


async def until_tokens_have_expired(options: EtcdOptions) -> None:
    """Wait until etcd refuses a token made now, and so all older ones that were not used since."""
    endpoint = AioEndpoint(options, options.endpoints[0])
    login = pb.AuthenticateRequest(name=options.user or "", password=options.password or "")
    method = "/etcdserverpb.Auth/Authenticate"
    tokens = [(await endpoint.unary(method, login, pb.AuthenticateResponse, timeout=5)).token for _ in range(200)]

    async def refused() -> bool:
        # Each token once: use would make it last.
        metadata = (("token", tokens.pop()),)
        request = pb.RangeRequest(key=b"k")
        try:
            await endpoint.unary("/etcdserverpb.KV/Range", request, pb.RangeResponse, timeout=5, metadata=metadata)
        except EtcdError as error:
            return error.stale_token
        return False

    try:
        await eventually(refused, within=10)
    finally:
        await endpoint.close()


async def test_announcer_and_mirror_get_over_lost_tokens(guarded: EtcdServer) -> None:
    options = guarded.options(user="root", password="secret")
    async with announced(options, ttl=2), mirrored(options) as seen:
        await eventually(lambda: seen.workers == {"w1"}, within=5)
        guarded.kill()
        await guarded.start()  # etcd keeps its tokens in memory only
        async with EtcdClient(options) as client:
            lease = await client.grant(2)
            await client.put(b"/mesh/v1/workers/other", b"x")

            async def a_lease_of_before_would_have_ended() -> bool:
                return (await client.time_to_live(lease)).ttl == -1

            await eventually(lambda: seen.workers == {"w1", "other"}, within=8)
            await eventually(a_lease_of_before_would_have_ended, within=8)
            assert (await client.range(b"/mesh/v1/workers/w1")).count == 1


async def test_a_user_is_no_mistake_where_none_is_asked_for() -> None:
    async with EmbeddedRegistry() as registry:
        await probe(EtcdOptions.from_url(registry.address, user="me", password="mine"), "/mesh/", write=True)
