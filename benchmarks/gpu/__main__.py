"""`python -m benchmarks.gpu`: numerics, then speed on one CUDA device, in one run of some minutes.

A Llama of 8 billion random weights in bfloat16 by our engine, `generate` on a static batch, and transformers'
continuous batching. One contender at a time: each has the device to itself.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.engine import model
from benchmarks.engine.contender import Contender, Run
from benchmarks.engine.mesh_engine import MeshEngine
from benchmarks.engine.transformers_contenders import BatchingSettings, ContinuousBatching, StaticBatch
from benchmarks.gpu import numerics
from benchmarks.machine import describe
from benchmarks.table import markdown, number

_HEADER = (
    *("engine", "streams", "tokens/s", "decode step ms", "generate's step / ours", "all first tokens ms"),
    *("% of bandwidth", "equal rows", "start s"),
)
_WARM_UP_TOKENS = 8
_COPY_BYTES = 8 << 30
_BATCHING = BatchingSettings(batch_tokens=4096, asynchronous=None)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check, measure, print."""
    options = _parser().parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA device, and there is none")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = torch.device("cuda", 0)
    _say(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    print(numerics.table(device), flush=True)
    bandwidth = _bandwidth(device)
    _say(f"device memory: {bandwidth / 1e12:.2f} TB/s, read and written")
    place = model.Place("cuda", "bfloat16")
    shape = model.SMALL if options.small else model.LARGE
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="bench-gpu-", dir=memory) as folder:
        parameters = model.write(Path(folder), shape, context=8192, seed=0, place=place)
        read = 2 * (parameters - shape.hidden * shape.vocabulary)  # of the embeddings a step reads a row each
        _say(f"{parameters / 1e9:.2f}G parameters; a step reads {read / 1e9:.2f} GB, {read / bandwidth * 1e3:.2f} ms")
        results = asyncio.run(_measure(_contenders(Path(folder), place, options), options, shape))
    rows = [_row(found, results, read / bandwidth) for found in results]
    print("\n".join(f"- {line}" for line in describe().lines()))
    name = torch.cuda.get_device_name(device)
    print(f"- {name}, {bandwidth / 1e12:.2f} TB/s measured; a step reads {read / 1e9:.2f} GB of weights")
    print(f"- {options.prompt_tokens} prompt tokens, {options.new_tokens} new ones, greedy, bfloat16, all at once\n")
    print(markdown(_HEADER, rows), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rows": [dict(zip(_HEADER, row, strict=True)) for row in rows]}, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 128], help="batch sizes (1 32 128)")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="length of each prompt (512)")
    parser.add_argument("--new-tokens", type=int, default=256, help="length of each answer (256)")
    parser.add_argument("--parts", action="store_true", help="our engine with some of its parts switched off, too")
    parser.add_argument("--minutes", type=float, default=7.0, help="no contender is begun after so long (7)")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the program")
    parser.add_argument("--json", type=Path, help="keep the table here, too")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _bandwidth(device: torch.device) -> float:
    """Bytes per second of a large copy, read and written, the best of some."""
    source = torch.empty(_COPY_BYTES // 4, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(6):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3)
    return 2 * _COPY_BYTES / best


def _contenders(folder: Path, place: model.Place, options: argparse.Namespace) -> list[Contender]:
    most = max(options.streams)

    def mesh(name: str, **changes: object) -> MeshEngine:
        return MeshEngine(folder, threads=4, most_streams=most, place=place, name=name, **changes)

    parts = [mesh("mesh, no graphs", cuda_graphs=False), mesh("mesh, sdpa", attention="sdpa")]
    return [
        mesh("mesh"),
        mesh("mesh, compiled", compile=True),
        *(parts if options.parts else []),
        StaticBatch(folder, place),
        ContinuousBatching(folder, _BATCHING, name="transformers continuous batching", place=place),
    ]


class _Result:
    """One contender at one number of streams."""

    def __init__(self, name: str, streams: int, run: Run, start: float) -> None:
        self.name, self.streams, self.run, self.start = name, streams, run, start


async def _measure(contenders: Sequence[Contender], options: argparse.Namespace, shape: model.Shape) -> list[_Result]:
    results: list[_Result] = []
    first = perf_counter()
    for contender in contenders:
        begin = perf_counter()
        if begin - first > 60 * options.minutes:
            _say(f"{contender.name}: left out, no time")
            continue
        try:
            await contender.start()
            start = perf_counter() - begin
            for streams in options.streams:
                results.append(_Result(contender.name, streams, await _run(contender, streams, options, shape), start))
                run = results[-1].run
                _say(f"{contender.name}, {streams}: {run.throughput:.0f} tokens/s, step {run.step * 1e3:.2f} ms")
        except Exception:  # one that fails is a result, too, and must not take the others with it
            _say(f"{contender.name} failed:\n{traceback.format_exc(limit=4)}")
        finally:
            await contender.stop()
            gc.collect()
            torch.cuda.empty_cache()
    return results


async def _run(contender: Contender, streams: int, options: argparse.Namespace, shape: model.Shape) -> Run:
    await contender.prepare(streams, options.prompt_tokens, options.new_tokens)
    warm = model.prompts(streams, options.prompt_tokens, shape.vocabulary, seed=1)
    await contender.run(warm, _WARM_UP_TOKENS)
    batch = model.prompts(streams, options.prompt_tokens, shape.vocabulary, seed=2 + streams)
    return await contender.run(batch, options.new_tokens)


def _row(found: _Result, results: Sequence[_Result], limit: float) -> list[str]:
    base = next((one for one in results if one.name == StaticBatch.name and one.streams == found.streams), found)
    run = found.run
    equal = sum(row == other for row, other in zip(run.rows, base.run.rows, strict=True))
    return [
        *(found.name, str(found.streams), number(run.throughput), number(run.step * 1e3)),
        *(number(base.run.step / run.step), number(run.first_tokens * 1e3)),
        *(number(100 * limit / run.step), f"{equal}/{len(run.rows)}", number(found.start)),
    ]


if __name__ == "__main__":
    main()
