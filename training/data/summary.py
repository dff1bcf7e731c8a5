"""What was counted of many conversations: how often each value occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import msgspec


class Facts(msgspec.Struct, array_like=True):
    """What is counted of one conversation."""

    numbers: dict[str, int]
    language: str
    model: str


@dataclass
class Summary:
    """How often each value occurs: memory grows with the values, not with the conversations."""

    numbers: dict[str, Counter[int]] = field(default_factory=dict[str, Counter[int]])
    languages: Counter[str] = field(default_factory=Counter[str])
    models: Counter[str] = field(default_factory=Counter[str])
    dropped: Counter[str] = field(default_factory=Counter[str])

    def add(self, facts: Facts) -> None:
        for name, value in facts.numbers.items():
            self.numbers.setdefault(name, Counter())[value] += 1
        self.languages[facts.language] += 1
        if facts.model:
            self.models[facts.model] += 1

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "conversations": self.languages.total(),
            **{name: distribution(values) for name, values in self.numbers.items()},
            "languages": dict(self.languages.most_common()),
            "models": dict(self.models.most_common()),
            "dropped": dict(self.dropped.most_common()),
        }


def distribution(values: Mapping[int, int]) -> dict[str, float]:
    """Sum, mean, percentiles and maximum of values, given how often each occurs."""
    ordered = sorted(values)
    below = list(accumulate(values[value] for value in ordered))
    count = below[-1]
    total = sum(value * times for value, times in values.items())

    def percentile(share: float) -> int:
        return next(value for value, upto in zip(ordered, below, strict=True) if upto >= share * count)

    return {
        "total": total,
        "mean": round(total / count, 1),
        "median": percentile(0.5),
        "90 %": percentile(0.9),
        "99 %": percentile(0.99),
        "most": ordered[-1],
    }
