"""What a run will cost, before, and what it cost, after: tokens times the prices that the user gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.mt_bench.jsonl import BadFile, explain
from benchmarks.mt_bench.matches import Match
from benchmarks.mt_bench.records import Usage

# Measured on GPT-4's judgments of MT-bench: 4 characters make a token of English, a judgment has 0.7 kB.
_CHARACTERS_PER_TOKEN: Final = 4.0
_JUDGMENT_TOKENS: Final = 190


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a million tokens, in any one currency."""

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        """What these tokens cost."""
        return (usage.prompt_tokens * self.input + usage.completion_tokens * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class Estimate:
    """Requests that a judge will get, and their tokens, roughly."""

    requests: int
    usage: Usage


def read_prices(path: Path | None) -> dict[str, Price]:
    """A JSON file: {"gpt-4o": {"input": 2.5, "output": 10}}, for a million tokens each. Raises BadFile."""
    if path is None:
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Price])
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: {explain(error)}") from error


def estimate(matches: Iterable[Match]) -> dict[str, Estimate]:
    """What each judge will be asked, from the prompts themselves."""
    found: dict[str, Estimate] = {}
    for match in matches:
        characters = sum(len(match.prompt.system) + len(text) for text in match.texts)
        usage = Usage(round(characters / _CHARACTERS_PER_TOKEN), _JUDGMENT_TOKENS * len(match.texts))
        before = found.get(match.judge, Estimate(0, Usage()))
        found[match.judge] = Estimate(before.requests + len(match.texts), before.usage + usage)
    return found


def told(usages: Mapping[str, Usage], prices: Mapping[str, Price]) -> list[Sequence[str]]:
    """Rows of model, input tokens, output tokens, cost; a cost without a price is unknown."""
    return [
        (
            model,
            f"{usage.prompt_tokens:,}",
            f"{usage.completion_tokens:,}",
            f"{prices[model].of(usage):.4f}" if model in prices else "unknown",
        )
        for model, usage in usages.items()
    ]
