"""Other people's clients, unmodified, against a live mesh: a file for each, in environments of their own.

The mesh serves two models. `echo` says what answers.json tells it to and otherwise the last message again, read as
Hermes models write: a test that sends a call gets that call, and then, as the result of the tool is the last message,
the result. `mesh-demo` is the demonstration
model, whose answers nobody can foresee.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from mesh.demo import model_path
from tests.harness import ROOT, Mesh

FOLDER = Path(__file__).parent
PYTEST = ("-m", "pytest", "-q", "-rs", "-c", FOLDER / "clients.ini", f"--confcutdir={FOLDER}")
INTERPRETERS = {
    "python": (ROOT / ".venv-clients/bin/python", *PYTEST),
    "python_openai2": (ROOT / ".venv-clients-openai2/bin/python", *PYTEST),
    "node": ("node", "--test", "--test-reporter=spec"),
}
# A snippet is run where its client is installed.
ENVIRONMENT = {"LlamaIndex": "python_openai2", "Instructor": "python_openai2"}
FILES = sorted(
    path for folder in INTERPRETERS for path in (FOLDER / folder).glob("*.*") if path.suffix in (".py", ".mjs")
)
SNIPPETS = re.findall(r"(?ms)^## ([^\n]+)\n[^#]*?^```(\w+)\n(.*?)^```", (ROOT / "docs/clients.md").read_text())
# Nobody has to tell anybody about our tests.
SILENT = {
    "DO_NOT_TRACK": "1",
    "AI_SDK_LOG_WARNINGS": "false",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not (ROOT / ".venv-clients").exists(),
        reason="make e2e-clients installs the clients in environments of their own",
    ),
]


class World:
    """The rest of the world, as a proxy that lets nothing through: the hosts that clients asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def world() -> Generator[World]:
    found = World()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            found.asked.append(self.rfile.readline().decode(errors="replace").strip())

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), workers=0, worker_args=()) as mesh:
        echo = ("--engine", "scripted", "--script-text", str(FOLDER / "answers.json"), "--tool-parser", "hermes")
        mesh.start_worker(*echo, "--model-name", "echo", "--context-length", "200000", name="echo")
        mesh.start_worker("--model-path", str(model_path()), "--model-name", "mesh-demo", name="demo")
        for worker in mesh.workers:
            worker.wait_ready(120)
        mesh.wait_listed(2)
        yield mesh


def run(mesh: Mesh, command: Sequence[Path | str], home: Path) -> str:
    """What a client has written. It fails if the client does, or if it asks for anything but the mesh."""
    with world() as outside:
        addresses = {
            "OPENAI_BASE_URL": f"{mesh.gateway.url}/v1",
            "OPENAI_API_KEY": "none",
            "ANTHROPIC_BASE_URL": mesh.gateway.url,
            "ANTHROPIC_API_KEY": "none",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), outside.url),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
        }
        path = os.pathsep.join(
            [str(ROOT / ".venv-clients/bin"), str(FOLDER / "node/node_modules/.bin"), os.environ["PATH"]]
        )
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env={"PATH": path, "HOME": str(home), **addresses, **SILENT},
            timeout=300,
            check=False,
        )
    sys.stdout.write(done.stdout)  # shown where the test fails
    assert done.returncode == 0
    assert not outside.asked
    return done.stdout


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(FOLDER).as_posix() for path in FILES])
def test_client(path: Path, mesh: Mesh, tmp_path: Path) -> None:
    run(mesh, [*INTERPRETERS[path.parent.name], path], tmp_path)


@pytest.mark.parametrize(("title", "language", "code"), SNIPPETS, ids=[title for title, *_ in SNIPPETS])
def test_snippet(title: str, language: str, code: str, mesh: Mesh, tmp_path: Path) -> None:
    # The agents need more context than the demonstration model has.
    code = code.replace("http://127.0.0.1:8000", mesh.gateway.url).replace("my-model", "echo")
    match language:
        case "python":
            command = [INTERPRETERS[ENVIRONMENT.get(title, "python")][0], "-c", code]
        case "js":
            # Packages are looked for beside the program.
            (tmp_path / "node_modules").symlink_to(FOLDER / "node/node_modules")
            (tmp_path / "snippet.mjs").write_text(code)
            command = ["node", "snippet.mjs"]
        case _:
            command = ["bash", "-euo", "pipefail", "-c", code]
    assert len(run(mesh, command, tmp_path).strip()) > 10
