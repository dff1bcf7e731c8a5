"""Votes as preferences for training: the same question, the answers that won and the ones that lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from webui.leaderboard.categories import VOID
from webui.store.archive import Ballot


def preference(ballot: Ballot) -> dict[str, Any] | None:
    """`prompt`, `chosen` and `rejected` as messages; None for a vote that prefers nothing, or that does not count.

    The prompt is the first question, which both sides share; what followed is each side's own, later questions too.
    """
    if ballot.vote.choice not in ("a", "b") or ballot.marks & set(VOID) or not ballot.turns[0].prompt:
        return None
    won = 0 if ballot.vote.choice == "a" else 1
    return {
        "prompt": [{"role": "user", "content": ballot.turns[0].prompt}],
        "chosen": _rest(ballot, won),
        "rejected": _rest(ballot, 1 - won),
        "chosen_model": ballot.battle.models[won],
        "rejected_model": ballot.battle.models[1 - won],
        "language": ballot.language,
        "id": ballot.battle.id,
    }


def preferences(ballots: Iterable[Ballot]) -> Iterable[dict[str, Any]]:
    """The preferences among votes."""
    return (found for found in map(preference, ballots) if found is not None)


def _rest(ballot: Ballot, side: int) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    for turn in ballot.turns:
        messages.append({"role": "user", "content": turn.prompt})
        messages.append({"role": "assistant", "content": turn.answers[side].text})
    return messages[1:]
