"""Votes as preferences for training: the same question, the answers that won and the ones that lost.

Only votes that the leaderboard counts are taken, and of a prompt that is in fashion only the first ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

from webui.leaderboard.categories import VOID
from webui.store.archive import Ballot
from webui.store.tallies import DISTINCT

_MARKED: Final = {
    "identity": "an answer said which model it is",
    "error": "an answer broke",
    "moderation": "moderated",
    "repeated": "the voter had voted on the same prompts before",
}


def preferences(
    ballots: Iterable[Ballot], excluded: Container[str], left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The preferences among votes; `left_out` counts the others by reason. `excluded` are voters who do not count."""
    for ballot in ballots:
        reason = _unfit(ballot, excluded)
        if reason is None:
            yield preference(ballot)
        else:
            left_out[reason] += 1


def preference(ballot: Ballot) -> dict[str, Any]:
    """`prompt`, `chosen` and `rejected` as messages, of a vote for one side.

    The prompt is the first question, which both sides share; what followed is each side's own, later questions too.
    """
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


def _unfit(ballot: Ballot, excluded: Container[str]) -> str | None:
    """Why a vote teaches nothing; None if it does."""
    for mark in VOID:
        if mark in ballot.marks:
            return _MARKED[mark]
    checks = {
        "neither side preferred": ballot.vote.choice not in ("a", "b"),
        "the voter is left out of the ratings": ballot.vote.voter in excluded,
        "the models' names were shown": not ballot.blind,
        "with pictures": ballot.battle.modality != "text",
        "no text in the first prompt": not ballot.turns[0].prompt.strip(),
        "both answered the same": _rest(ballot, 0) == _rest(ballot, 1),
        "an answer is empty": not all(answer.text.strip() for turn in ballot.turns for answer in turn.answers),
        f"{DISTINCT} earlier votes had the same prompts": ballot.repeats >= DISTINCT,
    }
    return next((reason for reason, holds in checks.items() if holds), None)


def _rest(ballot: Ballot, side: int) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    for turn in ballot.turns:
        messages.append({"role": "user", "content": turn.prompt})
        messages.append({"role": "assistant", "content": turn.answers[side].text})
    return messages[1:]
