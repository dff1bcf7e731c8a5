"""A contender of this environment in a process of its own, as vLLM and FastChat are in theirs. See child.py.

In one process they cost each other a quarter: each computes on a thread with an OpenMP pool of its own, and GNU's
OpenMP lets its threads sleep after every product where there are more of them than cores.

Run as a module: python -m benchmarks.engine.own_child generate|batching|mesh FOLDER THREADS SETTINGS
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.engine.contender import Contender, Late
from benchmarks.engine.rivals.child import serve


def start() -> Runner:
    """Load the model."""
    kind, folder, threads, settings = sys.argv[1:]
    return Runner(_make(kind, Path(folder), int(threads), json.loads(settings)))


def _make(kind: str, folder: Path, threads: int, settings: Mapping[str, Any]) -> Contender:
    if kind == "mesh":
        import_module("mesh.engine.transformers")  # before PyTorch: it says how that shall take memory
        ours: Any = import_module("benchmarks.engine.mesh_engine")
        return ours.MeshEngine(folder, threads=threads, **settings)
    theirs: Any = import_module("benchmarks.engine.transformers_contenders")
    theirs.set_up(threads)
    if kind == "generate":
        return theirs.StaticBatch(folder)
    return theirs.ContinuousBatching(folder, theirs.BatchingSettings(**settings), name=kind)


class Runner:
    """Batches in an event loop, which stands still between them."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._loop = asyncio.Runner()
        self._loop.run(contender.start())
        self._size: tuple[int, int, int] | None = None

    def __call__(self, prompts: list[list[int]], new_tokens: int, late: dict[str, Any] | None) -> dict[str, Any]:
        return self._loop.run(self._run(prompts, new_tokens, Late(**late) if late else None))

    def stop(self) -> None:
        """Let the contender's threads end, for which this process would wait."""
        self._loop.run(self._contender.stop())

    async def _run(self, prompts: list[list[int]], new_tokens: int, late: Late | None) -> dict[str, Any]:
        size = (len(prompts), len(prompts[0]), new_tokens)
        if size != self._size:  # the first batch of a size is never timed
            await self._contender.prepare(*size)
            self._size = size
        run = await self._contender.run(prompts, new_tokens, late)
        return {"rows": run.rows, "times": run.times, "wall": run.wall, "shares": run.shares, "late": run.late}


if __name__ == "__main__":
    if runner := serve(start):
        runner.stop()
