"""Interleaved repetitions: A B C A B C, so that what else the machine does falls on all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.engine.contender import Contender, Run
from benchmarks.engine.model import prompts

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `vocabulary` is the model's; every repetition has prompts of its own, equal for all."""

    streams: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    repeat: int
    vocabulary: int
    seed: int


@dataclass(slots=True)
class Result:
    """All runs of one contender at one number of streams; `equal` counts rows that equal the reference's."""

    name: str
    streams: int
    runs: list[Run] = field(default_factory=list[Run])
    equal: int = 0
    rows: int = 0

    @property
    def best(self) -> float:
        """Tokens per second of the best run."""
        return max(run.throughput for run in self.runs)

    @property
    def median(self) -> float:
        """Tokens per second of the median run."""
        return median(run.throughput for run in self.runs)

    @property
    def step(self) -> float:
        """Best of the runs' decode steps, seconds."""
        return min(run.step for run in self.runs)

    @property
    def first_tokens(self) -> float:
        """Best time until all rows had their first token, seconds."""
        return min(run.first_tokens for run in self.runs)

    def shares(self) -> dict[str, float]:
        """Parts of the engine's own work as shares of all runs' wall time."""
        wall = sum(run.wall for run in self.runs)
        parts = {part for run in self.runs for part in run.shares}
        return {part: sum(run.shares.get(part, 0.0) for run in self.runs) / wall for part in sorted(parts)}


async def measure(contenders: Sequence[Contender], plan: Plan, report: Report) -> list[Result]:
    """Run the plan; the first contender's rows are the reference. One untimed run each warms up."""
    results: list[Result] = []
    for streams in plan.streams:
        taking_part = [each for each in contenders if not each.one_at_a_time or streams == min(plan.streams)]
        for contender in taking_part:
            await contender.prepare(streams, plan.prompt_tokens, plan.new_tokens)
            await contender.run(_prompts(plan, streams, repetition=-1), plan.new_tokens)
        found = [Result(contender.name, streams) for contender in taking_part]
        for repetition in range(plan.repeat):
            await _repetition(taking_part, plan, streams, repetition, found, report)
        results += found
    return results


async def _repetition(
    contenders: Sequence[Contender], plan: Plan, streams: int, repetition: int, found: list[Result], report: Report
) -> None:
    reference: list[list[int]] | None = None
    batch = _prompts(plan, streams, repetition)
    for contender, result in zip(contenders, found, strict=True):
        run = await contender.run(batch, plan.new_tokens)
        _check(contender.name, run, streams, plan.new_tokens)
        reference = run.rows if reference is None else reference
        result.runs.append(run)
        result.rows += streams
        result.equal += sum(row == expected for row, expected in zip(run.rows, reference, strict=True))
        report(f"{streams:>4} streams, run {repetition + 1}: {run.throughput:8.1f} tokens/s  {contender.name}")


def _prompts(plan: Plan, streams: int, repetition: int) -> list[list[int]]:
    seed = plan.seed + 1000 * streams + repetition + 1
    return prompts(streams, plan.prompt_tokens, plan.vocabulary, seed=seed)


def _check(name: str, run: Run, streams: int, new_tokens: int) -> None:
    """A run that did less work than asked is no measurement."""
    lengths = {len(row) for row in run.rows}
    if len(run.rows) != streams or lengths != {new_tokens}:
        raise RuntimeError(f"{name}: expected {streams} rows of {new_tokens} tokens, got lengths {sorted(lengths)}")
