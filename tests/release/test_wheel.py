"""The wheel in empty environments, one for each extra: it brings what it is for, outside the repository.

`make test-dist` builds the wheel and runs this.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, free_port, wait_until

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
# Not installed here: compiled against the machine's CUDA, for one accelerator, or for who works on the project.
LEFT_OUT = {"flash", "kernels", "dev"}
# What is run where an extra is installed. `python -c` stands for what has no command of its own.
COMMANDS: dict[str, Sequence[Sequence[str]]] = {
    "": [["mesh", "--version"], ["mesh", "--help"], ["mesh", "ctl", "--help"], ["mesh-worker", "--help"]],
    "worker": [["mesh", "templates"], ["python", "-c", "import torch, mesh.engine.transformers.engine"]],
    "remote": [["python", "-c", "import mesh.engine.remote.engine"]],
    "gateway": [["mesh-gateway", "--help"], ["mesh", "up", "--help"]],
    "postgres": [["python", "-c", "import psycopg"]],
    "webui": [["mesh-webui", "--help"], ["mesh", "arena", "--help"], ["python", "-c", "import webui.app"]],
    "bench": [["mesh", "mtbench", "--help"], ["python", "-c", "import benchmarks.mt_bench.endpoint"]],
    "train": [["mesh", "train", "--help"], ["mesh", "train", "sft", "--help"]],
    "data": [["mesh", "data", "--help"]],
    "gguf": [["python", "-c", "import gguf"]],
    "otel": [["python", "-c", "import opentelemetry.sdk.trace, mesh.trace"]],
    "docs": [["zensical", "--version"]],
    "all": [["mesh", "--version"], ["mesh-gateway", "--help"], ["mesh-webui", "--help"]],
}
# Of an installation, on a machine that does other things too.
_LIMIT = 800
# torch alone is a gigabyte to unpack.
pytestmark = pytest.mark.timeout(3 * _LIMIT)


@dataclass(frozen=True)
class Environment:
    """An environment with the wheel, and a folder that is not the repository."""

    folder: Path

    def run(self, *argv: str) -> str:
        """The output of a command of the environment."""
        done = subprocess.run(
            [str(self.folder / "bin" / argv[0]), *argv[1:]],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            env=self.environ,
            check=False,
        )
        assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def environ(self) -> dict[str, str]:
        """Nothing of the environment in which the tests run."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("MESH_", "PYTHON"))}
        state = {f"XDG_{name}_HOME": str(self.folder / name.lower()) for name in ("DATA", "STATE")}
        return ours | state | {"PATH": f"{self.folder / 'bin'}:{ours['PATH']}"}


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The one that `make dist` has built."""
    [found] = (ROOT / "dist").glob(f"*-{VERSION}-*.whl")
    return found


@contextmanager
def installed(wheel: Path, extra: str) -> Generator[Environment]:
    """A new environment, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"wheel-{extra or 'bare'}-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=_LIMIT)
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, wanted], check=True, timeout=_LIMIT)
        yield Environment(Path(folder))


def test_every_extra_is_tried() -> None:
    assert COMMANDS.keys() == {"", *PROJECT["optional-dependencies"]} - LEFT_OUT


@pytest.mark.parametrize("extra", [each for each in COMMANDS if each not in ("gateway", "all")])
def test_an_extra_brings_what_its_commands_need(wheel: Path, extra: str) -> None:
    with installed(wheel, extra) as environment:
        for command in COMMANDS[extra]:
            environment.run(*command)


@pytest.mark.parametrize(("extra", "engine"), [("gateway", "scripted"), ("all", "transformers")])
def test_a_mesh_runs_from_the_wheel(wheel: Path, extra: str, engine: str) -> None:
    with installed(wheel, extra) as environment:
        for command in COMMANDS[extra]:
            environment.run(*command)
        assert environment.run("mesh", "--version").split() == ["mesh", VERSION]
        with mesh(environment, engine) as url:
            request = {"model": models(url)[0], "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
            answer = ask(f"{url}/v1/chat/completions", request)
            assert answer["choices"][0]["message"]["content"]
            assert environment.run("mesh", "chat", "--url", url, "Hello!").strip()


@contextmanager
def mesh(environment: Environment, engine: str) -> Generator[str]:
    """`mesh up` of the wheel; gives the gateway's address."""
    ports = [str(free_port()) for _ in range(2)]
    flags = ["--engine", engine, "--port", ports[0], "--registry-port", ports[1], "--worker-port", "0"]
    log = environment.folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(environment.folder / "bin" / "mesh"), "up", *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=environment.folder,
            env=environment.environ,
        )
    try:
        wait_until(lambda: process.poll() is not None or "OpenAI API" in log.read_text(), within=120)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        process.wait(30)


def ask(url: str, body: object | None = None) -> Any:
    """What a URL answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def models(url: str) -> list[str]:
    """The models of a gateway."""
    return [model["id"] for model in ask(f"{url}/v1/models")["data"]]


def test_what_the_archives_hold(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(re.search(r"dist-info/licenses/LICENSE$", name) for name in names)
    assert "mesh/v1/inference_pb2.py" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/", ".ci/")) or "__pycache__" in name]
    [source] = (ROOT / "dist").glob(f"*-{VERSION}.tar.gz")
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "THIRD_PARTY.md", "CHANGELOG.md", "protos/mesh/v1/inference.proto", "constraints.txt"} <= held
    assert not [name for name in held if "node_modules" in name or name.startswith((".venv", "build/", "dist/"))]
