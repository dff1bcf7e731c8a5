"""`mesh-worker` as a process: what the registry says of it, drain, signals, metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import pytest

from mesh.v1 import inference_pb2 as pb
from mesh.v1 import inference_pb2_grpc, registry_pb2
from tests.etcd_server import make_certificates
from tests.harness import ROOT, Gateway, Worker, read_metric, registered, wait_until

SCRIPTED = ("--engine", "scripted")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a registry."""
    with Gateway(tmp_path_factory.mktemp("registry"), "gateway") as gateway:
        yield gateway.wait_ready().etcd


def generate(channel: grpc.Channel, tokens: int) -> Any:
    """A plain call that produces so many tokens."""
    stub = cast("Any", inference_pb2_grpc.InferenceServiceStub)(channel)
    options = pb.SamplingOptions(max_tokens=tokens, ignore_eos=True)
    return stub.Generate(pb.GenerateRequest(text="hello", sampling=options), timeout=30)


def state_of(registry: str, name: str) -> str | None:
    record = registered(registry).get(name)
    return None if record is None else registry_pb2.WorkerState.Name(record.state)


def test_the_registry_tells_all_of_a_worker(tmp_path: Path, registry: str):
    args = ("--zone", "here", "--label", "rack=7", "--max-rows", "5", "--context-length", "99", "--model-name", "m")
    with Worker(tmp_path, "told", *SCRIPTED, *args, etcd=registry) as worker:
        worker.wait_ready()
        wait_until(lambda: "told" in registered(registry))
        record = registered(registry)["told"]
        assert (record.address, record.slots, record.zone, record.engine) == (worker.address, 5, "here", "scripted")
        assert dict(record.labels) == {"rack": "7"}
        assert record.state == registry_pb2.WORKER_STATE_READY
        (model,) = record.models
        assert (model.name, model.context_length) == ("m", 99)
        assert model.fingerprint
        assert pb.CAPABILITY_RESUME in model.capabilities
        assert record.incarnation == worker.stats().incarnation


def test_sigterm_drains_then_signs_off_and_ends(tmp_path: Path, registry: str):
    speed = ("--script-step-ms", "10")
    with Worker(tmp_path, "ending", *SCRIPTED, *speed, etcd=registry) as worker:
        worker.wait_ready()
        wait_until(lambda: state_of(registry, "ending") == "WORKER_STATE_READY")
        with grpc.insecure_channel(worker.address) as channel:
            call = generate(channel, 150)
            assert next(call).HasField("started")
            worker.terminate()
            wait_until(lambda: state_of(registry, "ending") == "WORKER_STATE_DRAINING", within=1)
            with pytest.raises(grpc.RpcError) as refused:
                list(generate(channel, 1))
            assert cast("Any", refused.value).code() is grpc.StatusCode.UNAVAILABLE
            events = list(call)
        assert events[-1].finished.usage.completion_tokens == 150
        assert worker.wait_exit() == 0
        assert "ending" not in registered(registry)
        assert "Traceback" not in worker.output


def test_the_drain_has_a_limit(tmp_path: Path):
    args = ("--script-stall-after", "3", "--drain-timeout", "0.3")
    with Worker(tmp_path, "stuck", *SCRIPTED, *args) as worker:
        worker.wait_ready()
        with grpc.insecure_channel(worker.address) as channel:
            call = generate(channel, 10)
            assert next(call).HasField("started")
            worker.terminate()
            with pytest.raises(grpc.RpcError) as ended:
                list(call)
            assert cast("Any", ended.value).code() is grpc.StatusCode.UNAVAILABLE
        assert worker.wait_exit(within=5) == 0
        assert worker.wait_for_record("streams are left at the end of the drain")["streams"] == 1


def test_a_second_signal_ends_at_once(tmp_path: Path):
    with Worker(tmp_path, "hurried", *SCRIPTED, "--script-stall-after", "3") as worker:
        worker.wait_ready()
        with grpc.insecure_channel(worker.address) as channel:
            call = generate(channel, 10)
            assert next(call).HasField("started")
            worker.interrupt()
            worker.wait_for_record("draining")
            worker.interrupt()
            assert worker.wait_exit(within=2) == 1
            call.cancel()


def test_an_admin_drain_stays_up_and_one_that_stops_ends(tmp_path: Path, registry: str):
    with Worker(tmp_path, "drained", *SCRIPTED, etcd=registry) as worker:
        worker.wait_ready()
        worker.drain()
        wait_until(lambda: state_of(registry, "drained") == "WORKER_STATE_DRAINING", within=1)
        assert worker.stats().state == registry_pb2.WORKER_STATE_DRAINING
        worker.drain(stop=True)
        assert worker.wait_exit() == 0
        assert "drained" not in registered(registry)


def test_metrics(tmp_path: Path):
    with Worker(tmp_path, "measured", *SCRIPTED) as worker:
        worker.wait_ready()
        with grpc.insecure_channel(worker.address) as channel:
            list(generate(channel, 12))
        port = worker.wait_for_record("serving metrics")["port"]
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert read_metric(text, "mesh_worker_streams_total", outcome="finished") == 1
        assert read_metric(text, "mesh_engine_output_tokens") == 12
        assert read_metric(text, "mesh_worker_load_slots") == 64
        assert read_metric(text, "mesh_worker_live_streams") == 0


def test_without_metrics_nothing_more_listens(tmp_path: Path):
    with Worker(tmp_path, "quiet", *SCRIPTED, "--no-metrics") as worker:
        worker.wait_ready()
        assert not [record for record in worker.records() if record["message"] == "serving metrics"]


def test_without_a_registry_it_serves_all_the_same(tmp_path: Path):
    env = {"MESH_WORKER_PORT": "0"}
    with Worker(tmp_path, "alone", *SCRIPTED, env=env) as worker:
        worker.wait_ready()
        with grpc.insecure_channel(worker.address) as channel:
            assert len(list(generate(channel, 3))) >= 3


def test_the_engine_of_choice_decides_what_is_imported(tmp_path: Path):
    with Worker(tmp_path, "light", *SCRIPTED) as worker:
        worker.wait_ready()
        maps = Path(f"/proc/{worker.pid}/maps")
        if not maps.exists():
            pytest.skip("needs /proc")
        assert "libtorch" not in maps.read_text()
        assert os.getpid() != worker.pid


def test_tls_and_client_certificates(tmp_path: Path):
    ours = make_certificates(tmp_path)
    given = ("--tls-cert", str(ours.cert), "--tls-key", str(ours.key), "--tls-ca", str(ours.ca))
    with Worker(tmp_path, "secret", *SCRIPTED, *given) as worker:
        worker.wait_ready()
        assert stats_by_command(worker.address, *given).returncode == 0
        without_certificate = stats_by_command(worker.address, "--tls-ca", str(ours.ca))
        assert without_certificate.returncode == 2
        assert without_certificate.stderr.startswith("mesh ctl stats: worker '")
        assert "asks for a certificate (--tls-cert, --tls-key)" in without_certificate.stderr
        in_plain_text = stats_by_command(worker.address)
        assert in_plain_text.returncode == 2
        assert in_plain_text.stderr.strip().count("\n") == 0, "gRPC has lines of its own"
        assert "speaks TLS and is asked without (--tls-ca)" in in_plain_text.stderr


def test_a_certificate_that_cannot_be_read_is_one_sentence(tmp_path: Path):
    missing = tmp_path / "missing.pem"
    with Worker(tmp_path, "secret", *SCRIPTED, "--tls-cert", str(missing), "--tls-key", str(missing)) as worker:
        assert worker.wait_exit() == 2
        assert worker.output.strip().endswith(f"cannot read {missing}: No such file or directory")
        assert "Traceback" not in worker.output


def stats_by_command(address: str, *args: str) -> subprocess.CompletedProcess[str]:
    """`mesh ctl stats`."""
    argv = [sys.executable, "-m", "mesh.cli", "ctl", "stats", address, *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
