"""Battles, turns and votes for tests of the arena's store and of what reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from webui.records import Answer, Battle, Choice, Conversation, Mode, Turn, Vote
from webui.store import archive
from webui.store.store import SqlStore

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def battle(
    battle_id: str, a: str = "red", b: str = "blue", *, voter: str = "v", mode: Mode = "battle", at: datetime = START
) -> Battle:
    """A battle of two models."""
    probability = 0.5 if mode == "battle" else None
    return Battle(id=battle_id, mode=mode, models=(a, b), voter=voter, opened=at, probability=probability)


def turn(number: int = 1, prompt: str = "What is a fox?", a: str = "An animal.", b: str = "A **red** animal.") -> Turn:
    """A turn that both sides have answered."""
    answers = tuple(Answer(text=text, finish="stop", completion_tokens=7) for text in (a, b))
    return Turn(number=number, prompt=prompt, asked=START, answers=answers)


def vote(battle_id: str, choice: Choice = "a", *, voter: str = "v", number: int = 1, at: datetime = START) -> Vote:
    """A vote on the first turn."""
    return Vote(battle=battle_id, turn=number, choice=choice, voter=voter, cast=at)


def fill(
    store: SqlStore,
    results: list[tuple[str, str, Choice]],
    *,
    voter: str = "v",
    prefix: str = "f",
    days: int = 0,
) -> None:
    """One battle and vote each, every one with a prompt of its own."""
    at = START + timedelta(days=days)
    names = [f"{prefix}-{index}" for index in range(len(results))]
    archive.add(
        store.database,
        [
            Conversation(
                battle=battle(name, a, b, voter=voter, at=at),
                turns=(turn(prompt=f"Tell me about the number {name}, please."),),
                vote=vote(name, choice, voter=voter, at=at),
            )
            for name, (a, b, choice) in zip(names, results, strict=True)
        ],
    )
