"""`python -m benchmarks.engine`: our engine beside transformers' `generate` and its continuous batching, in one run."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.engine import model, report
from benchmarks.engine.contender import Contender
from benchmarks.engine.measure import Plan, Result, measure
from benchmarks.engine.mesh_engine import MeshEngine
from benchmarks.engine.transformers_contenders import BatchingSettings, ContinuousBatching, StaticBatch
from benchmarks.machine import Machine, cores, describe

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
    options = _parser().parse_args(argv)
    _quiet()
    torch.set_num_threads(options.threads)
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
        shape = model.SMALL if options.small else model.S
        parameters = model.write(Path(folder), shape, seed=options.seed)
        plan = Plan(
            streams=tuple(options.streams),
            prompt_tokens=options.prompt_tokens,
            new_tokens=options.new_tokens,
            repeat=options.repeat,
            vocabulary=shape.vocabulary,
            seed=options.seed,
        )
        contenders = _contenders(Path(folder), options)
        results = asyncio.run(_run(contenders, plan))
    conditions = _conditions(options, parameters)
    print(_text(machine, conditions, results, rival=contenders[1].name))
    if options.json:
        data = {"machine": machine.as_dict(), "conditions": conditions, "results": report.as_dict(results)}
        options.json.write_text(json.dumps(data, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__, allow_abbrev=False)
    parser.add_argument("--streams", type=_positive, nargs="+", default=[1, 8, 32], help="batch sizes (1 8 32)")
    parser.add_argument("--prompt-tokens", type=_positive, default=64, help="length of each prompt (64)")
    parser.add_argument("--new-tokens", type=_positive, default=64, help="length of each answer (64)")
    parser.add_argument("--repeat", type=_positive, default=3, help="timed runs of each contender (3)")
    parser.add_argument("--threads", type=_positive, default=cores(), help="torch threads of each contender (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the prompts (0)")
    parser.add_argument("--small", action="store_true", help="a tiny model: shows the cost of the code around it")
    parser.add_argument("--tune", action="store_true", help="only compare settings of transformers' batching")
    parser.add_argument("--json", type=Path, help="also write all runs into this file")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _quiet() -> None:
    """Progress bars and advice of the libraries would run into the table."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)


def _contenders(folder: Path, options: argparse.Namespace) -> list[Contender]:
    reference = StaticBatch(folder)
    if options.tune:
        return [reference, *(ContinuousBatching(folder, one, name=one.label()) for one in _CANDIDATES)]
    batching = ContinuousBatching(folder, _BEST, name=_BATCHING)
    return [reference, batching, MeshEngine(folder, threads=options.threads, most_streams=max(options.streams))]


async def _run(contenders: Sequence[Contender], plan: Plan) -> list[Result]:
    started: list[Contender] = []
    try:
        for contender in contenders:
            started.append(contender)
            await contender.start()
        return await measure(contenders, plan, lambda line: print(line, file=sys.stderr, flush=True))
    finally:
        for contender in started:
            await contender.stop()


def _conditions(options: argparse.Namespace, parameters: int) -> list[str]:
    return [
        f"Llama with random weights, {parameters / 1e6:.1f}M parameters, float32, {options.threads} threads, "
        f"seed {options.seed}",
        f"{options.prompt_tokens} prompt tokens, {options.new_tokens} new ones, greedy, all submitted at once, "
        f"{options.repeat} interleaved runs after one to warm up",
        f"transformers' batching: {'see the names' if options.tune else _BEST.label()}",
    ]


def _text(machine: Machine, conditions: Sequence[str], results: Sequence[Result], *, rival: str) -> str:
    parts = [
        "\n".join(f"- {line}" for line in [*machine.lines(), *conditions]),
        report.table(results, reference=StaticBatch.name, rival=rival),
        report.shares(results),
    ]
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    main()
