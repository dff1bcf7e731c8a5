"""`python -m benchmarks.engine`: our engine beside transformers', vLLM and FastChat, in one run."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import latency, model, report
from benchmarks.engine.bandwidth import read_bandwidth
from benchmarks.engine.contender import Contender
from benchmarks.engine.latency import Gaps, LatePlan, measure_late
from benchmarks.engine.measure import Plan, Result, measure
from benchmarks.engine.rivals.process import fastchat, own, vllm
from benchmarks.engine.transformers_contenders import BatchingSettings, StaticBatch, quiet
from benchmarks.machine import cores, describe
from mesh.errors import MeshError

_BATCHING = "transformers continuous batching"
# The best of --tune on the machine of RESULTS.md; the differences between the first three are noise.
_BEST = BatchingSettings()
_CANDIDATES = (
    _BEST,
    BatchingSettings(page_size=32),
    BatchingSettings(page_size=128, batch_tokens=256),
    BatchingSettings(batch_tokens=2048),
    BatchingSettings(attention="paged|eager", page_size=32),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.long_prompt and options.new_tokens <= latency.AFTER:
        parser.error(f"--new-tokens must be above {latency.AFTER} with --long-prompt, not {options.new_tokens}")
    quiet()
    torch.set_num_threads(options.threads)
    machine = describe()
    shape = model.SHAPES[options.model]
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
        parameters = model.write(Path(folder), shape, context=_context(options), seed=options.seed)
        try:
            contenders = _contenders(Path(folder), options)
        except MeshError as error:
            raise SystemExit(error.message) from None
        if options.long_prompt:
            conditions = _conditions(options, parameters)
            gaps = asyncio.run(_run_late(contenders, options, shape))
            tables, data = latency.table(gaps), {"gaps": latency.as_dict(gaps)}
        else:
            bandwidth = read_bandwidth()
            least_step = shape.read_per_step(parameters) / bandwidth
            conditions = [*_conditions(options, parameters), _limit(shape.read_per_step(parameters), bandwidth)]
            results = asyncio.run(_run(contenders, options, shape))
            tables, data = _tables(results, contenders[1].name, least_step), {"results": report.as_dict(results)}
    print("\n".join(f"- {line}" for line in [*machine.lines(), *conditions]) + "\n\n" + tables)
    if options.json:
        whole = {"machine": machine.as_dict(), "conditions": conditions, **data}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__, allow_abbrev=False)
    parser.add_argument("--streams", type=_positive, nargs="+", default=[1, 8, 32], help="batch sizes (1 8 32)")
    parser.add_argument("--prompt-tokens", type=_positive, default=64, help="length of each prompt (64)")
    parser.add_argument("--new-tokens", type=_positive, default=64, help="length of each answer (64)")
    parser.add_argument("--repeat", type=_positive, default=3, help="timed runs of each contender (3)")
    parser.add_argument("--threads", type=_positive, default=cores(), help="torch threads of each contender (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the prompts (0)")
    parser.add_argument(
        "--model",
        choices=model.SHAPES,
        default="132m",
        help="shape of the model (132m); tiny shows the cost of the code around it",
    )
    parser.add_argument(
        "--rivals",
        type=_rivals,
        default=(),
        help="also vllm (eager and compiled), fastchat, or both with a comma; 'make rivals' first",
    )
    parser.add_argument(
        "--long-prompt", type=_positive, help="measure the time between tokens while a prompt of this length enters"
    )
    parser.add_argument("--compile", action="store_true", help="our engine with --compile as well")
    parser.add_argument(
        "--unpaced",
        action="store_true",
        help="our engine with --step-seconds 0 as well: prompts are read first, as by the others, whoever decodes",
    )
    parser.add_argument("--tune", action="store_true", help="only compare settings of transformers' batching")
    parser.add_argument("--json", type=Path, help="also write all runs into this file")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _rivals(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in ("vllm", "fastchat"):
            raise argparse.ArgumentTypeError(f"must be vllm, fastchat or vllm,fastchat, not '{text}'")
    return names


def _contenders(folder: Path, options: argparse.Namespace) -> list[Contender]:
    threads = options.threads
    reference = own(StaticBatch.name, "generate", folder, threads=threads)
    if options.tune:
        return [reference, *(_batching(folder, threads, one, one.label()) for one in _CANDIDATES)]
    mesh = _mesh(folder, options, "mesh")
    if options.long_prompt:
        ours = [mesh, _mesh(folder, options, "mesh --step-seconds 0", step_seconds=0.0)]
    else:
        ours = [reference, _batching(folder, threads, _BEST, _BATCHING), mesh]
    if options.compile:
        ours.append(_mesh(folder, options, "mesh --compile", compile=True))
        if options.unpaced:
            ours.append(_mesh(folder, options, "mesh --compile --step-seconds 0", compile=True, step_seconds=0.0))
    elif options.unpaced:
        ours.append(_mesh(folder, options, "mesh --step-seconds 0", step_seconds=0.0))
    return [*ours, *_rival_contenders(folder, options)]


def _mesh(folder: Path, options: argparse.Namespace, name: str, **settings: Any) -> Contender:
    streams = max(options.streams)
    return own(name, "mesh", folder, threads=options.threads, takes_late=True, most_streams=streams, **settings)


def _batching(folder: Path, threads: int, settings: BatchingSettings, name: str) -> Contender:
    return own(name, "batching", folder, threads=threads, **asdict(settings))


def _rival_contenders(folder: Path, options: argparse.Namespace) -> list[Contender]:
    context, threads = _context(options), options.threads
    found: list[Contender] = []
    if "vllm" in options.rivals:
        streams = max(options.streams)
        # Everything that is there at once, and pages that are not full.
        tokens = (streams + 1) * (options.prompt_tokens + options.new_tokens + 256) + (options.long_prompt or 0)
        cache = model.SHAPES[options.model].cached(tokens)
        found += vllm(folder, threads=threads, streams=streams, context=context, cache=cache)
    if "fastchat" in options.rivals and not options.long_prompt:
        found += fastchat(folder, threads=threads, context=context)
    return found


def _context(options: argparse.Namespace) -> int:
    """Enough for the longest prompt with its answer."""
    return max(2048, options.prompt_tokens + options.new_tokens + 1, (options.long_prompt or 0) + 2)


async def _run(contenders: Sequence[Contender], options: argparse.Namespace, shape: model.Shape) -> list[Result]:
    plan = Plan(
        streams=tuple(options.streams),
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        repeat=options.repeat,
        vocabulary=shape.vocabulary,
        seed=options.seed,
    )
    async with _started(contenders):
        return await measure(contenders, plan, _say)


async def _run_late(contenders: Sequence[Contender], options: argparse.Namespace, shape: model.Shape) -> list[Gaps]:
    found: list[Gaps] = []
    async with _started(contenders):
        for streams in options.streams:
            plan = LatePlan(
                streams=streams,
                prompt_tokens=options.prompt_tokens,
                new_tokens=options.new_tokens,
                long_tokens=options.long_prompt,
                repeat=options.repeat,
                vocabulary=shape.vocabulary,
                seed=options.seed,
            )
            found += await measure_late(contenders, plan, _say)
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@asynccontextmanager
async def _started(contenders: Sequence[Contender]) -> AsyncGenerator[None]:
    started: list[Contender] = []
    try:
        for contender in contenders:
            started.append(contender)
            await contender.start()
        yield
    finally:
        for contender in started:
            await contender.stop()


def _conditions(options: argparse.Namespace, parameters: int) -> list[str]:
    return [
        f"Llama with random weights, {parameters / 1e6:.1f}M parameters, float32, {options.threads} threads, "
        f"seed {options.seed}",
        f"{options.prompt_tokens} prompt tokens, {options.new_tokens} new ones, greedy, all submitted at once, "
        f"{options.repeat} interleaved runs after one to warm up",
        *_what_else(options),
    ]


def _what_else(options: argparse.Namespace) -> list[str]:
    if options.long_prompt:
        return [f"a prompt of {options.long_prompt} tokens enters while all decode"]
    lines = [f"transformers' batching: {'see the names' if options.tune else _BEST.label()}"]
    if "fastchat" in options.rivals:
        lines.append(
            f"FastChat serves one request at a time: its {min(options.streams)} stream(s) stand for any number"
        )
    return lines


def _limit(size: int, bandwidth: float) -> str:
    return (
        f"memory read at {bandwidth / 1e9:.1f} GB/s in this run: a decode step of one stream, which reads "
        f"{size / 1e6:.0f} MB of weights, takes at least {1e3 * size / bandwidth:.1f} ms"
    )


def _tables(results: Sequence[Result], rival: str, least_step: float) -> str:
    main = report.table(results, reference=StaticBatch.name, rival=rival, least_step=least_step)
    return "\n\n".join(part for part in (main, report.shares(results)) if part)


if __name__ == "__main__":
    main()
