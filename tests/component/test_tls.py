"""Certificates on both borders, and that new ones count without a restart."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import grpc.aio
import httpx
import pytest

from gateway.access.exposure import check_exposure
from gateway.access.tls import HttpTls
from gateway.config import GatewayConfig
from mesh import wire
from mesh.dial import dialler
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.errors import MeshError
from mesh.v1 import admin_pb2, admin_pb2_grpc
from mesh.v1 import inference_pb2 as pb
from mesh.wire import Tls
from mesh.worker.identity import Identity
from mesh.worker.server import WorkerServer
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.etcd_server import make_certificates
from tests.harness import Gateway, eventually


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_certificates(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_certificates(tmp_path_factory.mktemp("second"))


@pytest.fixture
def used(tmp_path: Path, first: Tls) -> Tls:
    """Files in use, at first those of the first authority."""
    files = Tls(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    replace(files, first)
    return files


def replace(files: Tls, by: Tls) -> None:
    """Put other certificates in place, one file after the other as people do."""
    for old, new in ((files.ca, by.ca), (files.cert, by.cert), (files.key, by.key)):
        assert old is not None
        assert new is not None
        shutil.copy(new, old.with_suffix(".new"))
        old.with_suffix(".new").rename(old)


async def test_answers_over_https_and_new_certificates_without_a_restart(used: Tls, first: Tls, second: Tls) -> None:
    async with GatewayUnderTest(certificates=used) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        assert (await gateway.stream(max_tokens=3))[-1] == "[DONE]"
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient(base_url=gateway.url.replace("https", "http")) as plain:
                await plain.get("/healthz")

        async def served_by(authority: Tls) -> bool:
            context = ssl.create_default_context(cafile=authority.ca)
            async with httpx.AsyncClient(base_url=gateway.url, verify=context) as client:
                try:
                    return (await client.get("/healthz")).status_code == 200
                except httpx.ConnectError:
                    return False

        assert not await served_by(second)
        assert used.key is not None
        used.key.write_text("half a file")
        replace(used, second)
        await eventually(lambda: served_by(second))
        assert not await served_by(first)
        # A connection that stood before goes on.
        assert (await gateway.http.get("/healthz")).status_code == 200


def test_what_is_no_pair_is_one_sentence(tmp_path: Path, first: Tls, second: Tls) -> None:
    assert first.cert is not None
    assert second.key is not None
    with pytest.raises(MeshError, match="are no certificate and its key"):
        HttpTls(first.cert, second.key)
    with pytest.raises(MeshError, match="cannot read"):
        HttpTls(first.cert, tmp_path / "missing.pem")
    with pytest.raises(MeshError, match="are no certificate and its key"):
        wire.client_credentials(Tls(first.ca, first.cert, second.key))
    with pytest.raises(MeshError, match="holds no certificate of an authority"):
        wire.client_credentials(Tls(second.key))


async def test_a_worker_takes_new_certificates_and_keeps_the_old_while_they_are_bad(
    used: Tls, first: Tls, second: Tls
) -> None:
    server = WorkerServer(ScriptedEngine(ScriptedOptions()), Identity("w"), tls=used)
    address = f"127.0.0.1:{server.bind('127.0.0.1', 0)}"
    await server.start()

    async def accepts(tls: Tls | None) -> bool:
        async with wire.channel(address, tls=tls) as channel:
            try:
                await admin_pb2_grpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest(), timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.UNAVAILABLE
            return True

    try:
        assert await accepts(first)
        # Neither a stranger's certificate, nor none, nor plain text.
        for stranger in (second, Tls(first.ca, second.cert, second.key), Tls(first.ca), None):
            assert not await accepts(stranger)
        # What a gateway dials with: its files are read at each connection.
        ours = Tls(used.ca, used.cert, used.key)
        async with dialler(ours)(address) as standing:
            await standing.DescribeModel(pb.DescribeModelRequest())
            assert used.cert is not None
            assert second.cert is not None
            shutil.copy(second.cert, used.cert)  # not the key's
            assert await accepts(first)
            replace(used, second)
            assert await accepts(second)
            assert not await accepts(first)
            await standing.DescribeModel(pb.DescribeModelRequest())
            async with dialler(ours)(address) as again:
                await again.DescribeModel(pb.DescribeModelRequest())
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"host": "0.0.0.0"}, "API keys: --require-keys or --keys-file and TLS: --tls-cert and --tls-key"),
        ({"host": "::", "require_keys": True}, "needs TLS: --tls-cert"),
        ({"host": "10.0.0.1", "tls_cert": Path("c")}, "needs API keys"),
        ({"host": "gateway.example.org", "tls_cert": Path("c")}, "needs API keys"),
        ({"registry_host": "0.0.0.0"}, "--registry-host 0.0.0.0 can be reached"),
    ],
)
def test_a_gateway_that_others_reach_needs_keys_and_tls(settings: dict[str, object], missing: str) -> None:
    with pytest.raises(MeshError) as caught:
        check_exposure(GatewayConfig(**settings))  # pyright: ignore[reportArgumentType]
    assert missing in caught.value.message
    assert "--insecure-public" in caught.value.message
    check_exposure(GatewayConfig(**settings, insecure_public=True))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_loopback_needs_nothing(host: str) -> None:
    check_exposure(GatewayConfig(host=host))


def test_public_with_keys_and_tls_is_fine() -> None:
    check_exposure(GatewayConfig(host="0.0.0.0", keys_file=Path("k"), tls_cert=Path("c")))


def test_the_command_says_so(tmp_path: Path) -> None:
    with Gateway(tmp_path, "gateway", "--host", "0.0.0.0") as gateway:
        assert gateway.wait_exit() == 2
        assert "mesh-gateway: --host 0.0.0.0 can be reached from other machines" in gateway.output


async def test_a_certificate_that_has_expired_is_logged_by_who_presents_it_and_named_by_who_refuses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = make_certificates(tmp_path, days=-1)
    assert tls.cert is not None
    assert tls.key is not None
    HttpTls(tls.cert, tls.key)
    server = WorkerServer(ScriptedEngine(ScriptedOptions()), Identity("w"), tls=Tls(cert=tls.cert, key=tls.key))
    port = server.bind("127.0.0.1", 0)
    assert [record.message for record in caplog.records] == ["the certificate has expired: clients will refuse it"] * 2
    await server.start()
    try:
        async with wire.channel(f"127.0.0.1:{port}", tls=Tls(ca=tls.ca)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await admin_pb2_grpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest(), timeout=5)
    finally:
        await server.stop()
    assert wire.from_rpc_error(raised.value).message == "its certificate has expired"
