"""Time between tokens of streams that decode, before a long prompt enters and while it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.engine.contender import Contender, Late, Run
from benchmarks.engine.model import prompts
from benchmarks.table import markdown, number

# Tokens that each stream has before the long prompt enters, the first of which ends its own prefill.
AFTER = 32
# Left of each picture's range; the last one is open.
_EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class LatePlan:
    """`streams` of `prompt_tokens` decode `new_tokens` each while a prompt of `long_tokens` enters."""

    streams: int
    prompt_tokens: int
    new_tokens: int
    long_tokens: int
    repeat: int
    vocabulary: int
    seed: int


@dataclass(slots=True)
class Gaps:
    """Seconds between two tokens of a stream, of all streams and runs of one contender; seconds of the long prefill."""

    name: str
    streams: int
    without: list[float] = field(default_factory=list[float])
    during: list[float] = field(default_factory=list[float])
    prefill: list[float] = field(default_factory=list[float])
    cut_short: bool = False

    def add(self, run: Run) -> None:
        """Sort the gaps of a run by what happened meanwhile."""
        assert run.late is not None
        entered, answered = run.late
        self.prefill.append(answered - entered)
        alone = run.first_tokens
        for moments in run.times:
            # A stream that had ended before the long prompt had its answer says nothing about the rest of it.
            self.cut_short = self.cut_short or moments[-1] < answered
            for before, after in pairwise(moments):
                if before >= alone and after <= entered:
                    self.without.append(after - before)
                elif after > entered and before < answered:
                    self.during.append(after - before)


async def measure_late(contenders: Sequence[Contender], plan: LatePlan, report: Callable[[str], None]) -> list[Gaps]:
    """One untimed run of each to warm up, then interleaved repetitions."""
    found = [Gaps(contender.name, plan.streams) for contender in contenders]
    for repetition in range(-1, plan.repeat):
        for contender, gaps in zip(contenders, found, strict=True):
            seed = plan.seed + 1000 * plan.streams + repetition + 1
            batch = prompts(plan.streams, plan.prompt_tokens, plan.vocabulary, seed=seed)
            (long,) = prompts(1, plan.long_tokens, plan.vocabulary, seed=seed + 500)
            run = await contender.run(batch, plan.new_tokens, Late(long, AFTER))
            if repetition >= 0:
                gaps.add(run)
                seconds = gaps.prefill[-1]
                report(f"{plan.streams:>4} streams, run {repetition + 1}: long prompt {seconds:.1f} s  {gaps.name}")
    return found


def table(found: Sequence[Gaps]) -> str:
    """Percentiles in milliseconds, with and without the long prompt, and the gaps of all by length."""
    header = ("time between tokens, ms", "streams", "long prompt", "p50", "p90", "p99", "max", "gaps", "its prefill s")
    rows: list[list[str]] = []
    for gaps in found:
        prefill = number(min(gaps.prefill)) + (" (streams ended before)" if gaps.cut_short else "")
        rows.append([gaps.name, str(gaps.streams), "not there", *_percentiles(gaps.without), "-"])
        rows.append([gaps.name, str(gaps.streams), "enters", *_percentiles(gaps.during), prefill])
    return markdown(header, rows) + "\n\n" + _histogram(found)


def as_dict(found: Sequence[Gaps]) -> list[dict[str, object]]:
    """All gaps, for a program to read."""
    return [
        {
            "engine": gaps.name,
            "streams": gaps.streams,
            "without": [round(gap, 6) for gap in gaps.without],
            "during": [round(gap, 6) for gap in gaps.during],
            "prefill_seconds": [round(seconds, 3) for seconds in gaps.prefill],
        }
        for gaps in found
    ]


def _percentiles(gaps: Sequence[float]) -> list[str]:
    ordered = sorted(gaps)
    if not ordered:
        return ["-"] * 4 + ["0"]
    picked = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9, 0.99)]
    return [*(number(1e3 * gap) for gap in (*picked, ordered[-1])), str(len(ordered))]


def _histogram(found: Sequence[Gaps]) -> str:
    names = [f"from {1e3 * edge:g}" for edge in _EDGES]
    rows: list[list[str]] = []
    for gaps in found:
        for label, values in (("not there", gaps.without), ("enters", gaps.during)):
            edges = [*_EDGES, float("inf")]
            counts = [sum(low <= gap < high for gap in values) for low, high in pairwise(edges)]
            rows.append([gaps.name, label, *map(str, counts)])
    return markdown(("gaps by length, ms", "long prompt", *names), rows)
