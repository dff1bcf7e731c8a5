"""transformers' continuous batching on a GPU, sized by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.engine.contender import Contender, Late, Run
from benchmarks.engine.model import Place, load

_RESULT_TIMEOUT = 60.0
_PAGE = 256


class GpuBatching(Contender):
    """The manager is kept between runs; CUDA graphs and asynchronous batching are left to its own choice."""

    name = "transformers continuous batching"

    def __init__(self, folder: Path, place: Place, *, attention: str = "sdpa") -> None:
        self._folder = folder
        self._place = place
        self._attention = attention
        self._model: Any = None
        self._manager: Any = None

    async def start(self) -> None:
        self._model = load(self._folder, self._place)
        self._model.set_attn_implementation(self._attention)

    async def prepare(self, streams: int, prompt_tokens: int, new_tokens: int) -> None:
        self._release()
        # The name changed between releases of transformers.
        page = (
            "page_size" if "page_size" in {field.name for field in fields(ContinuousBatchingConfig)} else "block_size"
        )
        blocks = streams * (-(-(prompt_tokens + new_tokens + 1) // _PAGE) + 1)
        sizes: dict[str, Any] = {
            page: _PAGE,
            "num_blocks": blocks,
            "max_batch_tokens": 4096,
            "max_requests_per_batch": streams,
        }
        self._manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=new_tokens, pad_token_id=0, eos_token_id=-1
            ),
            continuous_batching_config=ContinuousBatchingConfig(**sizes),
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
        self._release()
        self._model = None

    def _release(self) -> None:
        if self._manager is not None:
            self._manager.stop(block=True, timeout=30)
            self._manager.destroy()
            self._manager = None
