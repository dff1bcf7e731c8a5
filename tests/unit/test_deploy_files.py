"""deploy/: each command line and each variable in it is one that our commands take, read by their own parsers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from gateway.access.exposure import check_exposure
from gateway.config import GatewayConfig
from mesh.cli import ctl
from mesh.cli.main import usage
from mesh.cli.up.settings import UpConfig
from mesh.config import parse
from mesh.worker.config import WorkerConfig
from webui.config import WebConfig

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS: dict[str, tuple[type[Any], str]] = {
    "mesh-gateway": (GatewayConfig, "MESH_GATEWAY_"),
    "mesh-worker": (WorkerConfig, "MESH_WORKER_"),
    "mesh-webui": (WebConfig, "MESH_WEBUI_"),
}
SECRET = "a-secret-of-enough-characters"
# What a unit's own file of settings would say.
ENV_FILES = {
    "mesh-gateway": {"MESH_GATEWAY_ETCD": "http://10.0.0.5:2379", "MESH_GATEWAY_JOIN_TOKEN": SECRET},
    "mesh-worker": {"MESH_WORKER_MODEL_PATH": "/models/m", "MESH_WORKER_ETCD": "http://10.0.0.5:2379"},
    "mesh-webui": {"MESH_WEBUI_GATEWAY": "http://127.0.0.1:8000"},
}
ENV_FILES["mesh-worker"]["MESH_WORKER_ADVERTISE"] = "10.0.0.21:50051"


@dataclass
class Line:
    """A command line with its variables, and where it stands."""

    where: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])


def images() -> dict[str, list[str]]:
    """ENTRYPOINT of the image that each target of the Dockerfiles makes."""
    found: dict[str, list[str]] = {}
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (DEPLOY / "docker" / name).read_text()
        for stage in re.split(r"^FROM ", text, flags=re.M):
            entry = re.search(r"^ENTRYPOINT (\[.*\])$", stage, re.M)
            if entry:
                target = re.match(r"\S+ AS (\S+)", stage)
                assert target is not None
                suffix = "-cuda" if name.endswith("cuda") else ""
                found[f"inference-mesh-{target[1]}{suffix}"] = json.loads(entry[1])
    return found


def docker() -> Iterator[Line]:
    """What a container runs by itself, and what the comments have people type."""
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (DEPLOY / "docker" / name).read_text()
        for entry, given in re.findall(r"^ENTRYPOINT (\[.*\])\nCMD (\[.*\])$", text, re.M):
            yield Line(name, [*json.loads(entry), *json.loads(given)])
        for line in re.findall(r"docker run (.*)", text.replace("\\\n#", "")):
            image = re.search(r"inference-mesh-\S+", line)
            assert image is not None
            yield Line(f"{name}: docker run", [*images()[image[0]], *shlex.split(line[image.end() :])])


def filled(text: str) -> str:
    """A value with its placeholders filled in: ${NAME:-default}, ${NAME:?message}, $(NAME)."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    text = re.sub(r"\$\{\w+:\?.*\}", SECRET, text)
    return re.sub(r"\$\(POD_IP\)", "10.0.0.9", text)


def compose() -> Iterator[Line]:
    document = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    for name, service in document["services"].items():
        entry = images().get(service["image"])
        if entry is not None:
            env = {key: filled(str(text)) for key, text in service.get("environment", {}).items()}
            yield Line(f"compose {name}", [*entry, *service.get("command", [])], env)


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container of all pods in the manifests."""
    for document in yaml.safe_load_all((DEPLOY / "kubernetes/mesh.yaml").read_text()):
        pod: dict[str, Any] = document["spec"].get("template", {}).get("spec", {})
        for container in pod.get("containers", ()):
            yield document["metadata"]["name"], pod, container


def kubernetes() -> Iterator[Line]:
    for name, _, container in containers():
        entry = images().get(container["image"].partition(":")[0])
        if entry is None:
            continue
        env = {each["name"]: str(each.get("value", SECRET)) for each in container.get("env", ())}
        yield Line(f"kubernetes {name}", [*entry, *map(filled, container["args"])], env)
        stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if stop and stop[0] == "mesh":
            yield Line(f"kubernetes {name} preStop", stop, env)


def systemd() -> Iterator[Line]:
    for unit in sorted(DEPLOY.glob("systemd/*.service")):
        text = unit.read_text()
        env = dict(
            pair.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.M) for pair in line.split()
        )
        for given in re.findall(r"^ExecStart=(.*)$", text, re.M):
            argv = shlex.split(given)
            command = argv[0].removeprefix("/opt/mesh/bin/")
            assert command != argv[0]
            yield Line(unit.name, [command, *argv[1:]], {**ENV_FILES.get(command, {}), **env})


LINES = [line for source in (docker, compose, kubernetes, systemd) for line in source()]


def complete(line: Line) -> Line:
    """A worker that is started without a model, as an image by itself, is given one to be read at all."""
    argv, env = list(line.argv), dict(line.env)
    if argv[0] == "mesh-worker" and "MESH_WORKER_MODEL_PATH" not in env and "--model-path" not in " ".join(argv):
        argv += ["--model-path", "/models/m"]
    return Line(line.where, argv, env)


def read(line: Line) -> object:
    """The settings that the command would have; SystemExit if it refuses them."""
    name, *argv = complete(line).argv
    if name in SETTINGS:
        kind, prefix = SETTINGS[name]
        environ = {key: text for key, text in complete(line).env.items() if key.startswith("MESH_")}
        return parse(kind, prog=name, env_prefix=prefix, argv=argv, environ=environ, check=lambda _: None)
    assert name == "mesh", line
    if argv[0] == "up":
        return parse(UpConfig, prog="mesh up", env_prefix="MESH_UP_", argv=argv[1:], environ={})
    if argv[0] == "ctl":
        kind, _ = ctl.COMMANDS[argv[1]]
        return parse(kind, prog="mesh ctl", env_prefix="MESH_CTL_", argv=argv[2:], environ={})
    assert argv[:2] == ["config", "check"]
    assert re.search(r"^ +config ", usage(), re.M)
    return None


@pytest.mark.parametrize("line", LINES, ids=lambda line: cast("Line", line).where)
def test_a_command_line_is_one_that_the_command_takes(line: Line) -> None:
    if "--check-settings" in line.argv:
        with pytest.raises(SystemExit) as ended:
            read(line)
        assert ended.value.code == 0
    else:
        read(line)


def test_all_places_are_looked_at() -> None:
    places = " ".join(line.where for line in LINES)
    for place in ("Dockerfile", "docker run", "compose worker-2", "compose gateway-2", "compose webui"):
        assert place in places
    for place in (
        "mesh-gateway",
        "mesh-worker-qwen3",
        "preStop",
        "mesh-webui",
        "mesh-worker@.service",
        "mesh-up.service",
    ):
        assert place in places


def test_units_are_started_again_whatever_ended_them() -> None:
    """An etcd that comes later than they, as after a power cut, ends them with the same exit code as bad settings."""
    for unit in DEPLOY.glob("systemd/*.service"):
        text = unit.read_text()
        assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(text.splitlines()), unit.name
        assert "RestartPreventExitStatus" not in text


def test_gateways_say_that_others_reach_them() -> None:
    """Else they would refuse to start; what protects them stands in front of them."""
    found = [read(line) for line in LINES if line.argv[0] == "mesh-gateway" and line.where.startswith(("comp", "kube"))]
    assert len(found) == 3
    for config in found:
        assert isinstance(config, GatewayConfig)
        check_exposure(config)
        assert config.join_token


def test_workers_say_addresses_that_others_reach() -> None:
    found = [line for line in LINES if line.argv[0] == "mesh-worker" and line.where.startswith(("comp", "kube"))]
    assert len(found) == 3
    for line in found:
        config = read(line)
        assert isinstance(config, WorkerConfig)
        assert config.join_token
        assert not config.advertised(config.port).startswith(("0.0.0.0", "127."))


def test_pods_are_not_given_variables_of_services() -> None:
    """A Service named mesh-gateway would set MESH_GATEWAY_PORT=tcp://..., which a gateway takes for its own setting."""
    assert all(pod["enableServiceLinks"] is False for _, pod, _ in containers())


def test_pods_have_the_time_that_their_drain_takes() -> None:
    for name, pod, container in containers():
        given = [re.search(r"--drain-timeout=(\d+)", each) for each in container.get("args", ())]
        drain = next((int(each[1]) for each in given if each), 0)
        stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["none", "0"])
        before = int(stop[1]) if stop[0] == "sleep" else 0
        assert pod.get("terminationGracePeriodSeconds", 30) > drain + before, name


def test_the_autoscalers_metric_is_one_of_ours() -> None:
    from mesh.cli.metrics_page import names

    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes/mesh.yaml").read_text()))
    scalers = [each for each in documents if each["kind"] == "HorizontalPodAutoscaler"]
    metrics = [
        each["external"]["metric"]["name"]
        for scaler in scalers
        for each in scaler["spec"]["metrics"]
        if "external" in each
    ]
    assert metrics
    assert set(metrics) <= names()


def test_the_dashboard_and_the_rules_are_where_compose_mounts_them() -> None:
    document = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    mounts = [mount for service in document["services"].values() for mount in service.get("volumes", ())]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(files) >= 4
    for file in files:
        assert (DEPLOY / "compose" / file).exists(), file
