"""`mesh doctor`: each thing that can be broken in a test is, and the doctor finds it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.cli.admin import RegistryConfig
from mesh.cli.doctor import certificates, installation, machine, registry
from mesh.cli.doctor.finding import Finding
from mesh.cli.doctor.model import model
from mesh.demo import model_path
from mesh.registry import EtcdClient, EtcdError, EtcdOptions, encode, key_for
from mesh.v1.registry_pb2 import ServedModel, WorkerRecord
from tests.etcd_server import EtcdServer, make_certificates
from tests.harness import ROOT, Mesh, free_port

DAY = 86400


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("doctor")) as mesh:
        yield mesh


def only(findings: list[Finding], status: str, *words: str) -> None:
    """There is one finding, with this status, that says these words; whatever is wrong has a remedy."""
    assert len(findings) == 1, findings
    assert findings[0].status == status, findings
    assert all(word in findings[0].found for word in words), findings
    assert bool(findings[0].remedy) == (status in ("warn", "fail"))


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
    return subprocess.run(
        [sys.executable, "-m", "mesh.cli", "doctor", *argv],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=ROOT,
        env=environ,
        check=False,
    )


def test_the_installation_of_the_tests_is_well():
    found = [
        *(installation.python() + installation.packages(installation.requirements())),
        *(installation.pins() + installation.protos()),
    ]
    assert not [finding for finding in found if finding.status == "fail"]
    assert {finding.check for finding in found} == {"python", "packages", "pins", "protos"}


def test_packages_of_other_versions_and_missing_ones_are_named():
    required = ["msgspec>=0", "pytest>=999", "no-such-thing>=1", "no-such-extra; extra == 'x'", "quart<0; extra == 'y'"]
    only(installation.packages(required), "fail", "pytest", ">=999", "no-such-thing is missing", "quart")
    only(installation.packages(["msgspec>=0", "no-such-extra; extra == 'x'"]), "ok", "1 packages", "extras x")


def test_packages_that_the_tests_do_not_run_with_are_named(tmp_path: Path):
    (tmp_path / "constraints.txt").write_text("msgspec==0.0.1\nno-such-thing==1\n# a comment\n")
    only(installation.pins(tmp_path / "constraints.txt"), "warn", "msgspec", "tested 0.0.1")
    only(installation.pins(tmp_path / "none"), "skip")


def test_code_that_is_missing_or_older_than_its_protos_is_found(tmp_path: Path):
    only(installation.protos(modules=["mesh.v1.no_such_pb2"]), "fail", "no_such_pb2")
    proto = tmp_path / "protos/mesh/v1/admin.proto"
    proto.parent.mkdir(parents=True)
    text = (ROOT / "protos/mesh/v1/admin.proto").read_text()
    proto.write_text(text)
    only(installation.protos(tmp_path), "ok")
    proto.write_text(text.replace("message DrainResponse {", "message DrainResponse {\n  bool brand_new = 99;"))
    only(installation.protos(tmp_path), "warn", "admin.proto")


def test_full_disks_and_low_limits_are_found(tmp_path: Path):
    place = {"state": tmp_path / "not" / "there" / "yet"}
    only(machine.disk(place, least=0, enough=0), "ok", "GiB free")
    only(machine.disk(place, least=0, enough=1 << 60), "warn", "GiB free")
    only(machine.disk(place, least=1 << 60, enough=1 << 60), "fail", "GiB free")
    only(machine.limits(512), "fail", "512")
    only(machine.limits(4096), "warn", "4096")
    only(machine.limits(65536), "ok", "65536")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'NVIDIA H100, 570.1'", "is built for CPUs, but there is NVIDIA H100"),
        ("exit 9", "a GPU whose driver does not answer"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str):
    import torch

    if torch.version.cuda is not None:
        pytest.skip("torch is built for CUDA")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    only(machine.gpu(), "fail", words)


def test_taken_ports_are_found_unless_a_mesh_of_ours_has_them():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        only(machine.ports({address: "gateway"}, {}), "fail", address, "gateway", "taken")
        only(machine.ports({address: "gateway"}, {address: "8000"}), "ok", f"{address} by mesh 8000")
    only(machine.ports({address: "gateway"}, {}), "ok", address)


def test_certificates_that_expire_or_do_not_fit_are_found(tmp_path: Path):
    tls, other = make_certificates(tmp_path / "a"), make_certificates(tmp_path / "b")
    assert tls.cert is not None
    assert tls.key is not None
    assert other.key is not None
    only(certificates.certificates([tls.cert]), "warn", "expires on")
    only(certificates.certificates([tls.cert], now=time.time() - 30 * DAY), "ok", "valid until")
    only(certificates.certificates([tls.cert], now=time.time() + 3 * DAY), "fail", "expired on")
    only(certificates.certificates([tls.key]), "fail", "no certificate")
    only(certificates.certificates([tmp_path / "none.pem"]), "fail", "none.pem")
    assert certificates.pairs([(tls.cert, tls.key)]) == []
    only(certificates.pairs([(tls.cert, other.key)]), "fail")


def test_an_etcd_that_is_away_is_found_beside_one_that_is_there(mesh: Mesh):
    nobody = f"127.0.0.1:{free_port()}"
    found = asyncio.run(registry.etcd(EtcdOptions.from_url(f"{mesh.gateway.etcd},{nobody}")))
    assert [finding.status for finding in found] == ["ok", "fail"]
    assert "ms a read" in found[0].found
    assert nobody in found[1].found


def test_workers_that_do_not_answer_and_models_that_differ_are_found(mesh: Mesh):
    options = EtcdOptions.from_url(mesh.gateway.etcd)
    live = mesh.workers[0]
    silent = WorkerRecord(worker_id="silent", incarnation="i", address=f"127.0.0.1:{free_port()}")
    other = WorkerRecord(worker_id="other", incarnation="another", address=live.address)
    other.models.append(ServedModel(name=mesh.model, fingerprint="different"))

    async def look() -> list[registry.Answer]:
        config = RegistryConfig(etcd=mesh.gateway.etcd)
        async with EtcdClient(options) as etcd:
            for record in (silent, other):
                await etcd.put(key_for(record.worker_id).encode(), encode(record))
            answers = await registry.ask_workers(config, options)
            for record in (silent, other):
                await etcd.delete_range(key_for(record.worker_id).encode())
        return answers

    answers = asyncio.run(look())
    found = registry.workers(answers)
    assert [(finding.status, finding.found.split()[0]) for finding in found] == [("fail", "other"), ("fail", "silent")]
    assert "another process" in found[0].found
    only(registry.clocks(answers), "ok", "1 worker")
    only(registry.fingerprints(answer.record for answer in answers), "warn", mesh.model, "different on other")


@pytest.mark.parametrize(
    ("ahead", "status", "words"), [(0.2, "ok", "within"), (2.0, "warn", "ahead"), (-60.0, "fail", "behind")]
)
def test_clocks_that_differ_are_found(ahead: float, status: str, words: str):
    answers = [registry.Answer(WorkerRecord(worker_id="w"), 0.01), registry.Answer(WorkerRecord(worker_id="x"), ahead)]
    only(registry.clocks(answers), status, words)
    only(registry.clocks([registry.Answer(WorkerRecord(worker_id="w"), error="dead")]), "skip")


def test_an_etcd_that_is_full_is_found(tmp_path: Path):
    async def fill(client: EtcdClient) -> None:
        for number in range(5000):  # it looks at its size when it writes to the disk, which is ten times in a second
            await client.put(b"/filler/%d" % number, b"x" * 65536)

    async def look() -> list[Finding]:
        async with EtcdServer(tmp_path, arguments=["--quota-backend-bytes", "262144"]) as etcd:
            options = EtcdOptions.from_url(etcd.url)
            async with EtcdClient(options) as client:
                with pytest.raises(EtcdError, match="space"):
                    await fill(client)
            return await registry.etcd(options)

    [finding] = asyncio.run(look())
    assert finding.status == "fail"
    assert "NOSPACE" in finding.found
    assert "defrag" in finding.remedy


def test_the_clock_of_a_real_etcd_is_read(tmp_path: Path):
    async def look() -> list[Finding]:
        async with EtcdServer(tmp_path) as etcd:
            return await registry.etcd_clocks(EtcdOptions.from_url(etcd.url))

    only(asyncio.run(look()), "ok", "right to a second")
    only([registry.etcd_clock("e:1", 3.2)], "warn", "3 s ahead of")
    only([registry.etcd_clock("e:1", -60.0)], "fail", "60 s behind")


def test_a_model_without_a_template_and_one_that_is_not_there_are_found(tmp_path: Path):
    demo = model_path("mesh-demo-mini")
    only(model(str(demo)), "ok", "mesh-demo-mini", "tokens of a greeting")
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in demo.iterdir():
        if file.name == "tokenizer_config.json":
            settings = json.loads(file.read_text())
            settings.pop("chat_template", None)
            (bare / file.name).write_text(json.dumps(settings))
        elif file.suffix != ".jinja":
            (bare / file.name).symlink_to(file)
    found = model(str(bare))
    assert [finding.status for finding in found] == ["ok", "warn"], found
    assert "--chat-template" in found[1].remedy
    only(model(str(tmp_path / "nowhere")), "fail", "nowhere")


def test_the_exit_code_is_that_of_failures_and_json_is_for_programs(mesh: Mesh):
    well = run("--only", "limits", "--only", "registry", "--etcd", mesh.gateway.etcd, "--json")
    assert well.returncode == 0, well.stdout + well.stderr
    assert {finding["check"]: finding["status"] for finding in json.loads(well.stdout)} == {
        "limits": "ok",
        "etcd": "ok",
        "workers": "ok",
        "clocks": "ok",
        "models": "ok",
    }
    nobody = f"127.0.0.1:{free_port()}"
    ill = run("--only", "registry", "--etcd", nobody)
    assert ill.returncode == 1
    assert "fail" in ill.stdout
    assert nobody in ill.stdout
    assert "→" in ill.stdout
    typo = run("--only", "etdc")
    assert typo.returncode == 2
    assert "etdc" in typo.stderr
    known = re.split(", ", typo.stderr.strip().partition("there are: ")[2])
    assert len(known) == 10
    shown = run("--help").stdout
    assert all(name in shown for name in known)
