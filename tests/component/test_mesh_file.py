"""mesh.yaml: what it asks for, and what it is told when it is wrong. The commands themselves check their settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.cli.up.mesh_file import read_mesh_file
from mesh.config import ConfigError
from tests.harness import ROOT

GOOD = """\
etcd:
  url: https://10.0.0.5:2379
  ca: ca.pem
  user: mesh
  password: hunter2-hunter2
worker-port: 6000
gateways:
  - zone: "on"
    require-keys: true
    image-urls: false
    cors-origins: [https://a.example, https://b.example]
  - {port: 8001, host: 127.0.0.2}
models:
  - path: /models/my-llama
    replicas: 2
    devices: ['cuda:0', 'cuda:1']
    host: 10.0.0.21
    dtype: bfloat16
    lora: {sql: /adapters/sql, law: /adapters/law}
    join-token: hunter2-hunter2-hunter2
    aliases: [gpt-4o, chat]
  - engine: scripted
    host: 10.0.0.21
webui:
  title: Our arena
"""

BAD = """\
registry-prt: 22379
gateways:
  - {port: 28000, prot: 3}
  - {port: 28000}
  - {port: 28002, queue-limit: -1}
  - {port: 28003, host: 0.0.0.0}
  - {port: 28004, etcd: x}
models:
  - {engine: scripted, name: a, replica: 2}
  - {engine: scripted, name: b, script-tokens: 0}
  - {engine: scripted, name: c, dtype: float32}
  - {path: /x, dtyp: float32}
  - {path: /x, replicas: 3, devices: [cpu, cpu]}
  - {path: /y, name: x}
  - {name: foo}
  - {path: /z, model-path: a}
  - {path: /z, compile: yes}
  - {path: /z, replicas: 0}
  - {path: /z, zone: }
  - {path: /z, path: /w}
webui: 3
"""

ERRORS = """\
:1: registry-prt is not known here; did you mean registry-port?
:3: gateways[0].prot is no setting of gateways; did you mean port?
:4: gateways[1].port needs port 28000 for gateway-2, which gateway has
:5: gateways[2].queue-limit must be at least 0, not -1
:6: gateways[3].host 0.0.0.0 can be reached from other machines and needs API keys
:7: gateways[4].etcd is for the whole file
:9: models[0].replica is no setting of workers; did you mean replicas?
:10: models[1].script-tokens must be at least 1, not 0
:11: models[2].dtype has no effect with --engine scripted
:12: models[3].dtyp is no setting of workers; did you mean dtype?
:13: models[4].devices must have one item, or one for each of the 3 replicas
:14: models[5].name gives x to a second model; the first one is /x
:15: models[6] needs path
:16: models[7].model-path is called path here
:17: models[8].compile must be true or false, or 'yes' in quotes
:18: models[9].replicas must be a whole number between 1 and 64, not 0
:19: models[10].zone has no value
:20: models[11].path is given twice, first in line 20
:21: webui must be a mapping
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mesh.yaml"
    file.write_text(text)
    return file


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_mesh_file(write(tmp_path, text))
    return str(caught.value)


def test_a_file_becomes_processes_with_the_flags_that_it_says(tmp_path: Path):
    plan = read_mesh_file(write(tmp_path, GOOD))
    assert plan.registry.endpoints == ("10.0.0.5:2379",)
    assert plan.registry_port is None
    assert plan.aliases == {"gpt-4o": "my-llama", "chat": "my-llama"}
    assert plan.models == ["my-llama", "scripted"]
    first, second = plan.of("gateway")
    for flag in (
        "--zone=on",
        "--require-keys",
        "--no-image-urls",
        "--cors-origins=https://b.example",
        "--etcd-ca=ca.pem",
    ):
        assert flag in first.argv
    assert (first.address, second.address) == ("http://127.0.0.1:8000", "http://127.0.0.2:8001")
    assert first.env == {"MESH_GATEWAY_ETCD_PASSWORD": "hunter2-hunter2"}
    workers = plan.of("worker")
    assert [worker.address for worker in workers] == ["10.0.0.21:6000", "10.0.0.21:6001", "10.0.0.21:6002"]
    assert [worker.env.get("CUDA_VISIBLE_DEVICES") for worker in workers] == ["0", "1", None]
    assert "--lora=law=/adapters/law" in workers[0].argv
    assert workers[0].env["MESH_WORKER_JOIN_TOKEN"] == "hunter2-hunter2-hunter2"
    assert not [each for each in plan.services if "hunter2" in f"{each} {each.argv}"], "ps shows it, or a log"
    assert plan.of("webui")[0].argv[-4:] == ("--gateway", "http://127.0.0.1:8000", "--port", "7860")


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path):
    told = refusal(tmp_path, BAD).splitlines()
    expected = ERRORS.splitlines()
    assert told[0] == f"{len(expected)} errors:"
    for line, (said, wanted) in enumerate(zip(told[1:], expected, strict=True), 1):
        assert said.startswith(f"{tmp_path}/mesh.yaml{wanted}"), f"{line}: {said}"


def test_the_file_of_the_documentation_is_taken(tmp_path: Path):
    [text] = re.findall(r"```yaml\n(# etcd:.*?)```", (ROOT / "docs/operations.md").read_text(), re.S)
    plan = read_mesh_file(write(tmp_path, text))
    assert plan.models == ["my-llama", "claude-sonnet-4-5"]
    assert [worker.env.get("CUDA_VISIBLE_DEVICES") for worker in plan.of("worker")] == ["0", "1", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[1, 2]", "must be a mapping"),
        ("models: [", ":1: not YAML"),
        ("models:\n  - !!python/object:os.system {}\n", "needs path"),
        ("gateways: []\n", "nothing to run"),
        ("gateways: []\nmodels: [{engine: scripted}]\n", "needs etcd"),
        ("gateways: [{}]\n", "need etcd"),
        ("etcd: ftp://x\n", ":1: etcd is wrong"),
        ("etcd: a:1\nregistry-port: 5\n", ":2: registry-port has no effect with etcd"),
        ("registry-port: 8000\n", "needs port 8000"),
    ],
)
def test_a_file_that_makes_no_mesh_is_refused(tmp_path: Path, text: str, message: str):
    assert message in refusal(tmp_path, text)


def test_config_check_shows_what_would_run_and_no_secret(tmp_path: Path):
    command = [sys.executable, "-m", "mesh.cli", "config", "check", str(write(tmp_path, GOOD))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    for shown in ("worker-3", "CUDA_VISIBLE_DEVICES=1", "--dtype=bfloat16", "MESH_WORKER_JOIN_TOKEN", "gpt-4o stands"):
        assert shown in done.stdout
    assert "hunter2" not in done.stdout
    refused = subprocess.run(
        [*command[:-1], str(tmp_path / "none.yaml")], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (refused.returncode, json.dumps(refused.stderr).count("none.yaml")) == (2, 1)
