"""The programs of clients/examples and the Python of docs/grpc.md, run as a person runs them, but for the address.

Two models: `tools`, scripted to say what examples.json tells it to, and the demonstration model.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.demo import model_path
from tests.harness import ROOT, Mesh

EXAMPLES = ROOT / "clients/examples"
ANSWERS = Path(__file__).with_name("examples.json")
BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / "docs/grpc.md").read_text())

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), workers=0, worker_args=()) as mesh:
        scripted = ("--engine", "scripted", "--model-name", "tools")
        mesh.start_worker(*scripted, "--script-text", str(ANSWERS), "--tool-parser", "hermes", name="tools")
        mesh.start_worker("--model-path", str(model_path()), "--model-name", "mesh-demo", name="demo")
        for worker in mesh.workers:
            worker.wait_ready(120)
        mesh.wait_listed(2)
        yield mesh


def run(mesh: Mesh, *command: str, model: str = "mesh-demo") -> str:
    """What a program prints; fails with what it says if it does."""
    environment = {**os.environ, "OPENAI_BASE_URL": f"{mesh.gateway.url}/v1", "OPENAI_API_KEY": "none", "MODEL": model}
    done = subprocess.run(
        command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(mesh: Mesh, *words: str, model: str = "mesh-demo") -> str:
    return run(mesh, sys.executable, *words, model=model)


def test_the_model_calls_functions_until_it_knows(mesh: Mesh) -> None:
    lines = python(mesh, "function_calling.py", "How much rain falls in Bergen and Kairo?", model="tools").splitlines()
    assert lines[0].startswith("rainfall(")
    assert lines[0].endswith("= 2250 mm")
    assert lines[1].endswith("= 18 mm")
    assert lines[2].endswith("= 2268")
    assert lines[3] == "2268 mm in both together."


def test_data_out_of_a_text(mesh: Mesh) -> None:
    assert python(mesh, "extraction.py", model="tools") == "Ada Lovelace, 1815: mathematician, writer\n"
    # Held to the schema, a toy answers in its form as well.
    assert re.fullmatch(r".*, -?\d+: .*\n", python(mesh, "extraction.py"), re.DOTALL)


def test_the_nearest_passage_comes_first(mesh: Mesh, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the river is cold\n\nwhich bird can sing\n\nsnow on the hill\n\nwe eat at night\n")
    lines = python(mesh, "search.py", str(text), "which bird can sing", model="tools").splitlines()
    assert lines[0] == "1.000  which bird can sing"
    assert len(lines) == 3


def test_the_sdks_and_curl_say_the_same(mesh: Mesh) -> None:
    said = python(mesh, "chat.py", "Hello! What can you do?")
    assert len(said) > 20
    if (EXAMPLES / "node_modules").exists():
        assert run(mesh, "node", "chat.mjs", "Hello! What can you do?") == said
    listed, *events = run(mesh, "./chat.sh").splitlines()
    assert '"mesh-demo"' in listed
    assert [line for line in events if line][-1] == "data: [DONE]"


def test_plain_transformers_say_what_the_mesh_says(mesh: Mesh) -> None:
    said = python(mesh, "chat.py", "Hello! What can you do?")
    assert python(mesh, "huggingface.py", str(model_path()), "Hello! What can you do?") == said


def test_a_worker_describes_itself(mesh: Mesh) -> None:
    address = mesh.worker("tools").address
    listed = python(mesh, "reflection.py", address)
    assert (
        "mesh.v1.InferenceService/Generate(mesh.v1.GenerateRequest) returns (stream mesh.v1.GenerateResponse)" in listed
    )
    asked = '{"text": "the river is cold", "sampling": {"max_tokens": 5}}'
    events = python(mesh, "reflection.py", address, "mesh.v1.InferenceService/Generate", asked).splitlines()
    assert events[0].startswith('{"started"')
    assert events[-1].startswith('{"finished"')
    assert '"engine": "scripted"' in python(mesh, "reflection.py", address, "mesh.v1.InferenceService/DescribeModel")


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_the_python_of_the_page(mesh: Mesh, tmp_path: Path, block: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(BLOCKS[block].replace("http://127.0.0.1:12379", mesh.gateway.etcd))
    assert len(python(mesh, "-W", "error", str(program))) > 20
