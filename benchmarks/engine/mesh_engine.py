"""Our engine, driven in process through the interface that the worker drives it by."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.engine.contender import Contender, Late, Run
from benchmarks.engine.model import CPU, Place
from mesh.engine.base import Delta, Failed, Finished, Request, Sampling, Step, Tokens
from mesh.engine.transformers.engine import TransformersEngine
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.options import EngineOptions

_LIMIT = 900.0
_SECONDS = "_seconds"


class MeshEngine(Contender):
    """The default engine with its default settings, detokenizing included, which the others do not do."""

    takes_late = True

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        most_streams: int,
        place: Place = CPU,
        name: str = "mesh",
        **options: Any,
    ) -> None:
        """`options` are fields of EngineOptions."""
        self.name = name
        model = LoadOptions(path=str(folder), dtype=place.dtype, device=place.device, threads=threads)
        most = max(64, most_streams)
        self._engine = TransformersEngine(EngineOptions(model, max_rows=most, **options))
        self._keys = itertools.count(1)
        self._collector: _Collector | None = None

    async def start(self) -> None:
        await self._engine.start(self._on_step)

    async def run(self, prompts: Sequence[Sequence[int]], new_tokens: int, late: Late | None = None) -> Run:
        before = self._engine.stats()
        sampling = Sampling(seed=0, temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        requests = [self._request(prompt, sampling) for prompt in prompts]
        collector = self._collector = _Collector([request.key for request in requests], late.after if late else 0)
        for request in requests:
            await self._engine.submit(request)
        async with asyncio.timeout(_LIMIT):
            if late is not None:
                await collector.all_decode
                wanted = self._request(late.prompt, Sampling(seed=0, temperature=0.0, max_tokens=1, ignore_eos=True))
                collector.enter(wanted.key)
                await self._engine.submit(wanted)
            await collector.done
        wall = perf_counter() - collector.start
        after = self._engine.stats()
        seen = None
        if late is not None:
            collector.rows.popitem()
            _, (first,) = collector.times.popitem()
            seen = (collector.entered, first)
        rows, times = list(collector.rows.values()), list(collector.times.values())
        shares = {
            name.removesuffix(_SECONDS): after[name] - before.get(name, 0.0)
            for name in after
            if name.endswith(_SECONDS)
        }
        return Run(rows, times, wall, shares, seen)

    async def stop(self) -> None:
        await self._engine.stop()

    def _request(self, prompt: Sequence[int], sampling: Sampling) -> Request:
        key = next(self._keys)
        return Request(key, f"bench-{key}", self._engine.models[0].name, Tokens(tuple(prompt)), sampling)

    def _on_step(self, step: Step) -> None:
        if self._collector is not None:
            self._collector.take(step)


class _Collector:
    """Takes the events of one run."""

    def __init__(self, keys: Sequence[int], after: int) -> None:
        self.start = perf_counter()
        self.rows: dict[int, list[int]] = {key: [] for key in keys}
        self.times: dict[int, list[float]] = {key: [] for key in keys}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.all_decode: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.entered = 0.0
        self._after = after
        self._open = len(keys)

    def enter(self, key: int) -> None:
        """One more row, from now on."""
        self.entered = perf_counter() - self.start
        self.rows[key], self.times[key] = [], []
        self._open += 1

    def take(self, step: Step) -> None:
        now = perf_counter() - self.start
        for event in step.events:
            if isinstance(event, Delta):
                self.rows[event.key] += event.token_ids
                self.times[event.key] += [now] * len(event.token_ids)
            elif isinstance(event, Finished):
                self._open -= 1
            elif isinstance(event, Failed) and not self.done.done():
                self.done.set_exception(event.error)
        if not self.all_decode.done() and all(len(row) >= self._after for row in self.rows.values()):
            self.all_decode.set_result(None)
        if not self._open and not self.done.done():
            self.done.set_result(None)
