"""What transformers offers by itself: `generate` on a static batch, and its continuous batching."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from benchmarks.engine.contender import Contender, Late, Run
from benchmarks.engine.model import CPU, Place, load

# A run of the largest batch takes half a minute on two cores; a dead generation thread must not hang the benchmark.
_RESULT_TIMEOUT = 300.0


def set_up(threads: int) -> None:
    """For a process that does nothing else."""
    quiet()
    torch.set_num_threads(threads)


def quiet() -> None:
    """Progress bars and advice of the libraries would run into the table."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)


class _Clock(StoppingCriteria):
    """Stops nothing: it is called once per step, and notes when."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        del scores, kwargs
        self.times.append(perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)  # pyright: ignore[reportReturnType]


class StaticBatch(Contender):
    """`model.generate` on all prompts as one batch, which starts and ends together."""

    name = "transformers generate, static batch"

    def __init__(self, folder: Path, place: Place = CPU) -> None:
        self._folder = folder
        self._place = place
        self._model: Any = None

    async def start(self) -> None:
        self._model = load(self._folder, self._place)

    async def run(self, prompts: Sequence[Sequence[int]], new_tokens: int, late: Late | None = None) -> Run:
        assert late is None, "not taken"
        clock = _Clock()
        start = perf_counter()
        ids = torch.tensor(prompts, device=self._place.device)
        out = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=_greedy(new_tokens, pad_token_id=0),
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
        wall = perf_counter() - start
        times = [moment - start for moment in clock.times]
        return Run(rows, [times] * len(rows), wall)

    async def stop(self) -> None:
        self._model = None


@dataclass(frozen=True, slots=True)
class BatchingSettings:
    """What can be chosen. The cache is always sized to the load, since the mask of sdpa spans the whole cache.

    `asynchronous` None leaves that to transformers, as CUDA graphs always are.
    """

    attention: str = "sdpa"
    page_size: int = 256
    batch_tokens: int = 512
    asynchronous: bool | None = False

    def label(self) -> str:
        """For tables."""
        mode = {True: "asynchronous", False: "synchronous", None: "its own choice of mode"}[self.asynchronous]
        return f"{self.attention}, page {self.page_size}, {self.batch_tokens} tokens a batch, {mode}"


class ContinuousBatching(Contender):
    """transformers' continuous batching. The manager is kept between runs, so that no run pays for its start."""

    def __init__(self, folder: Path, settings: BatchingSettings, *, name: str, place: Place = CPU) -> None:
        self.name = name
        self._folder = folder
        self._place = place
        self._settings = settings
        self._model: Any = None
        self._manager: Any = None

    async def start(self) -> None:
        self._model = load(self._folder, self._place)
        self._model.set_attn_implementation(self._settings.attention)

    async def prepare(self, streams: int, prompt_tokens: int, new_tokens: int) -> None:
        await self._release()
        page = self._settings.page_size
        # One page of slack a row: a request is admitted only if its next page is free too.
        blocks = streams * (ceil((prompt_tokens + new_tokens + 1) / page) + 1)
        settings: dict[str, Any] = {
            _page_field(): page,
            "num_blocks": blocks,
            "max_batch_tokens": max(self._settings.batch_tokens, streams),
            "max_requests_per_batch": streams,
            "use_async_batching": self._settings.asynchronous,
        }
        self._manager = self._model.init_continuous_batching(
            generation_config=_greedy(new_tokens, pad_token_id=0, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(**settings),
        )
        self._manager.warmup()
        self._manager.start()

    async def run(self, prompts: Sequence[Sequence[int]], new_tokens: int, late: Late | None = None) -> Run:
        assert late is None, "not taken"
        start = perf_counter()
        ids: list[str] = self._manager.add_requests(
            inputs=[list(prompt) for prompt in prompts], max_new_tokens=new_tokens, record_timestamps=True
        )
        results: dict[str, Any] = {}
        while len(results) < len(ids):
            result = self._manager.get_result(timeout=_RESULT_TIMEOUT)
            if result is None or result.error is not None:
                raise RuntimeError(f"continuous batching failed: {'no result' if result is None else result.error}")
            if result.is_finished():
                results[result.request_id] = result
        wall = perf_counter() - start
        rows = [list(results[key].generated_tokens) for key in ids]
        return Run(rows, [[moment - start for moment in results[key].timestamps] for key in ids], wall)

    async def stop(self) -> None:
        await self._release()
        self._model = None

    async def _release(self) -> None:
        if self._manager is not None:
            self._manager.stop(block=True, timeout=30)
            self._manager.destroy()
            self._manager = None


def _page_field() -> str:
    """What the size of a page is called: transformers changed that after 5.17."""
    names = {field.name for field in fields(ContinuousBatchingConfig)}
    return "page_size" if "page_size" in names else "block_size"


def _greedy(new_tokens: int, **token_ids: int) -> GenerationConfig:
    """Exactly `new_tokens` greedy tokens, whatever they are."""
    return GenerationConfig(do_sample=False, max_new_tokens=new_tokens, min_new_tokens=None, **token_ids)
