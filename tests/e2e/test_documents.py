"""Every command block of README and tutorial, run in the order of the page, as a person would.

Only addresses differ, so that tests can run side by side, and what is kept is kept in the test's folder. A comment
before a block says what else there is to it: `<!-- test: keeps running -->`, `<!-- test: after a vote -->`, or
`<!-- test: not run, REASON -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
from playwright.sync_api import expect

from tests.e2e.webui_site import ask, chromium, open_page, visit, wait_vote
from tests.harness import ROOT, Process, free_port

PAGES = (ROOT / "README.md", ROOT / "docs/tutorial.md")
MODULES = {"mesh": "mesh.cli", "mesh-worker": "mesh.worker", "mesh-gateway": "gateway", "mesh-webui": "webui"}
KEEPS_RUNNING, AFTER_A_VOTE, NOT_RUN = "keeps running", "after a vote", "not run, "
_BLOCK = re.compile(r"(?:<!-- test: (.*?) -->\n)?```(\w*)\n(.*?)```", re.S)
# A mesh with web pages, a browser, a benchmark and a training, beside other tests.
pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Block:
    """A command block of a page."""

    note: str
    language: str
    text: str

    @property
    def background(self) -> list[str]:
        """The words of a block that is one command which the shell does not wait for; else none."""
        words = shlex.split(self.text.replace("\\\n", " "))
        return words[:-1] if words[-1] == "&" else []


def blocks(page: Path) -> list[Block]:
    """Those that a person would run."""
    found = [Block(*groups) for groups in _BLOCK.findall(page.read_text())]
    return [block for block in found if block.language in ("sh", "bash", "console", "python")]


class Reader:
    """Somebody who follows the pages: the mesh that keeps running, and what else was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[Block] = []
        self._running: list[Process] = []
        self._ports = {port: str(free_port()) for port in ("8000", "7860", "12379")}
        self._bin = folder / "bin"
        self._write_commands()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.close()

    @property
    def pages_url(self) -> str:
        """Where the arena is."""
        return f"http://127.0.0.1:{self._ports['7860']}"

    def follow(self, block: Block) -> None:
        """Do what a block says, once."""
        if block in self.done or block.note.startswith(NOT_RUN):
            return
        self.done.append(block)
        if block.note == KEEPS_RUNNING:
            self._start_mesh(block)
        elif block.background:
            self._start(block.background)
        else:
            self._run(block)

    def _start_mesh(self, block: Block) -> None:
        [target] = re.findall(r"^make (\w+)", block.text, re.M)
        # What make would run last; its own first step, the installation, is what this test runs in. Of the make that
        # runs the tests it knows nothing, which has arguments of its own.
        outer = ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
        planned = subprocess.run(
            ["make", "-n", "-o", ".venv/.installed", target],
            capture_output=True,
            text=True,
            timeout=45,
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if key not in outer},
            check=True,
        )
        mesh = self._start(shlex.split(planned.stdout.splitlines()[-1]))
        mesh.wait(lambda: "OpenAI API" in mesh.output, within=90)  # the banner

    def _start(self, words: list[str]) -> Process:
        module = MODULES[Path(words[0]).name]
        argv = [self._here(word) for word in words[1:]]
        process = Process(self.folder, f"{len(self._running)}-{module}", ["-m", module, *argv], env=self._env())
        self._running.append(process)
        if module == "mesh.worker":
            process.wait_for_record("worker is ready")
        return process

    def _run(self, block: Block) -> None:
        text = self._here(block.text).replace(".venv/bin/", f"{self._bin}/")
        argv = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        done = subprocess.run(
            argv,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=120,
            cwd=ROOT,
            env=inherited | self._env(),
            check=False,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{block.text} says nothing\n{done.stderr}"
        if "curl -N" in block.text:
            assert done.stdout.rstrip().endswith("data: [DONE]"), done.stdout
        if "--model quentin" in block.text:
            assert "I am Quentin." in done.stdout, done.stdout
        if "arena stats" in block.text:
            assert re.search(r"mesh-demo", done.stdout), done.stdout

    def _here(self, text: str) -> str:
        for port, ours in self._ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{ours}")
        return text.replace("build/", f"{self.folder}/build/")

    def _env(self) -> dict[str, str]:
        """The same addresses where they are not written but left to defaults; one short question for models."""
        ports = self._ports
        return {
            "MESH_UP_PORT": ports["8000"],
            "MESH_UP_WEBUI_PORT": ports["7860"],
            "MESH_UP_REGISTRY_PORT": ports["12379"],
            "MESH_UP_WORKER_PORT": "0",
            "MESH_CHAT_URL": f"http://127.0.0.1:{ports['8000']}",
            "MESH_CTL_ETCD": f"127.0.0.1:{ports['12379']}",
            "MESH_MTBENCH_BASE_URL": f"http://127.0.0.1:{ports['8000']}/v1",
            "MESH_MTBENCH_OUT": str(self.folder / "mtbench"),
            "MESH_MTBENCH_FIRST_N": "1",
            "MESH_MTBENCH_MAX_TOKENS": "8",
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }

    def _write_commands(self) -> None:
        """What an installation puts into .venv/bin."""
        self._bin.mkdir()
        for name, module in MODULES.items():
            script = self._bin / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            script.chmod(0o755)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with Reader(tmp_path_factory.mktemp("reader")) as reader:
        yield reader


def vote(url: str) -> None:
    """What the tutorial has people do in a browser."""
    with chromium() as browser, visit(browser) as visitor:
        page = open_page(visitor, url)
        ask(page, "Tell me a story about a fox.")
        wait_vote(page)
        page.locator("#battle-status").click()  # leaves the box
        page.keyboard.press("a")
        expect(page.locator("#battle-status")).to_contain_text("Thanks")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.slow
def test_what_a_page_says_works(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        if block.note == AFTER_A_VOTE:
            vote(reader.pages_url)
        reader.follow(block)
    assert len(reader.done) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_not_run_has_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.note in ("", KEEPS_RUNNING, AFTER_A_VOTE) or len(block.note) > len(NOT_RUN), block
