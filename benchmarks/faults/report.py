"""The table of a run: a row for each scenario, a cell for what clients of a system saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.faults.stage import Outcome, Scenario
from benchmarks.table import markdown

# By scenario, then by system.
Outcomes = Mapping[str, Mapping[str, Outcome]]


def table(scenarios: Sequence[Scenario], systems: Sequence[str], outcomes: Outcomes) -> str:
    """Scenario × system, and below it why some of our own answers were not identical."""
    rows = [[each.name, *(cell(outcomes[each.name].get(name)) for name in systems)] for each in scenarios]
    text = markdown(("scenario", *systems), rows)
    reasons = [_reason(each, outcomes[each.name].get("ours")) for each in scenarios]
    return "\n".join([text, "", *filter(None, reasons)])


def as_list(outcomes: Outcomes) -> list[dict[str, Any]]:
    """For a program to read."""
    return [
        {"scenario": scenario, "system": system, **asdict(outcome)}
        for scenario, systems in outcomes.items()
        for system, outcome in systems.items()
    ]


def cell(outcome: Outcome | None) -> str:
    """Such as `identical, +0.12 s`, or `4 of 6; error event after 5 chunks`."""
    if outcome is None:
        return ""
    if outcome.absent:
        return f"– ({outcome.absent})"
    parts = [f"{outcome.identical} of {outcome.asked} identical"]
    if outcome.extra:
        parts.append(f"{max(0.0, *outcome.extra):+.2f} s")
    parts += sorted(outcome.troubles, key=outcome.troubles.__getitem__)[-1:]
    return "; ".join([*parts, *outcome.notes])


def _reason(scenario: Scenario, outcome: Outcome | None) -> str:
    if outcome is None or outcome.absent or outcome.identical == outcome.asked:
        return ""
    return f"- {scenario.name}, ours: {scenario.why or 'should be identical, and is not'}"
