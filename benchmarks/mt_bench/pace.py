"""`python -m benchmarks.mt_bench.pace`: answers of 80 questions of two turns by 4 models, at once and one at a time.

The models are scripted workers behind a gateway, so that only waiting and the mesh's own work are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import describe
from benchmarks.mt_bench.answering import AnswerPlan, answer
from benchmarks.mt_bench.endpoint import Endpoint
from benchmarks.mt_bench.question_set import QuestionSet, load
from benchmarks.mt_bench.records import read_failures
from benchmarks.processes import Process, ProcessFailed, free_port, python
from benchmarks.table import markdown, number

_START_LIMIT = 60.0


def main(argv: Sequence[str] | None = None) -> None:
    """Start the mesh, run both ways, print."""
    options = _parser().parse_args(argv)
    machine = describe()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        where = Path(folder)
        url, models = _mesh(where, stack, options)
        questions = _questions(where, options.questions)
        seconds = [
            asyncio.run(_run(questions, models, url, where / str(limit), limit)) for limit in (options.at_once, 1)
        ]
    requests = 2 * options.questions * options.models
    print("\n".join(f"- {line}" for line in machine.lines()))
    print(
        f"- {options.questions} questions × 2 turns × {options.models} models = {requests} answers of "
        f"{options.tokens} tokens, one every {options.step_ms:g} ms; a line on the disk for each question and model\n"
    )
    rows = [
        [f"{options.at_once} at once", number(seconds[0]), number(requests / seconds[0])],
        ["one at a time", number(seconds[1]), number(requests / seconds[1])],
        ["ratio", number(seconds[1] / seconds[0]), ""],
    ]
    print(markdown(["run", "wall time, s", "answers/s"], rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mt_bench.pace", description=__doc__, allow_abbrev=False)
    parser.add_argument("--questions", type=int, default=80, help="questions of two turns (80)")
    parser.add_argument("--models", type=int, default=4, help="models, each on a worker of its own (4)")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of an answer (40)")
    parser.add_argument("--step-ms", type=float, default=5.0, help="milliseconds for a token (5)")
    parser.add_argument("--at-once", type=int, default=64, help="requests at once in the first run (64)")
    return parser


def _mesh(folder: Path, stack: ExitStack, options: argparse.Namespace) -> tuple[str, list[str]]:
    """The gateway's address, and the names of the models that it serves."""
    port = free_port()
    gateway = Process("gateway", python("gateway", "--port", str(port), "--registry-port", "0"), folder)
    stack.enter_context(gateway)
    registry = str(gateway.wait_logged("gateway listening")["registry"])
    models = [f"model-{place}" for place in range(options.models)]
    for model in models:
        given = ["--port", "0", "--no-metrics", "--worker-id", model, "--model-name", model, "--etcd", registry]
        script = ["--script-tokens", str(options.tokens), "--script-step-ms", f"{options.step_ms:g}"]
        stack.enter_context(Process(model, python("mesh.worker", "--engine", "scripted", *given, *script), folder))
    deadline = time.monotonic() + _START_LIMIT
    while gateway.log.read_text().count('"worker connected"') < len(models):
        if time.monotonic() > deadline:
            raise ProcessFailed(f"not all workers are connected after {_START_LIMIT:g} s:\n{gateway.tail()}")
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}/v1", models


def _questions(folder: Path, count: int) -> QuestionSet:
    """Made up; the scripted models do not read them."""
    path = folder / "asked.jsonl"
    rows = [{"question_id": id_, "turns": [f"Question {id_}?", "And then?"]} for id_ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(str(path), folder)


async def _run(questions: QuestionSet, models: Sequence[str], url: str, folder: Path, limit: int) -> float:
    """Seconds for all answers."""
    plan = AnswerPlan(models=models, limit=limit, limit_each=limit)
    async with Endpoint(url, "none") as endpoint:
        started = time.perf_counter()
        await answer(plan, questions, folder, endpoint)
        seconds = time.perf_counter() - started
    if failures := read_failures(folder):
        raise ProcessFailed(f"{len(failures)} answers failed: {failures[0].reason}")
    return seconds


if __name__ == "__main__":
    main()
