"""Conversations that were voted on, one after the other: for exports, judges and imports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from webui.records import Battle, Conversation, StoreUnavailable, Turn, Vote
from webui.store.database import Database
from webui.store.rows import SIDES, answer_row, battle_of, battle_row, clean, load_turns, packed, unpacked, vote_of
from webui.store.store import vote_row
from webui.store.tables import BattleRow, LabelRow, TurnRow, VoteRow
from webui.traits.conversation import traits
from webui.traits.style import Style

_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote with what it was about: the turns as they were then, and what was found out about them.

    `blind`: the models were hidden. `repeats`: how many earlier votes had the same prompts.
    """

    number: int
    battle: Battle
    turns: tuple[Turn, ...]
    vote: Vote
    language: str
    categories: frozenset[str]
    marks: frozenset[str]
    a: Style
    b: Style
    blind: bool
    repeats: int


def ballots(database: Database, *, after: int = 0) -> Iterator[Ballot]:
    """All votes behind the one with that number, in their order. Raises StoreUnavailable."""
    while True:
        with database.reading() as session:
            wanted = (
                select(VoteRow, BattleRow)
                .join(BattleRow, VoteRow.battle == BattleRow.id)
                .where(VoteRow.number > after)
                .order_by(VoteRow.number)
                .limit(_BATCH)
            )
            found = [_ballot(session, vote, battle) for vote, battle in session.execute(wanted)]
        yield from found
        if len(found) < _BATCH:
            return
        after = found[-1].number


def label(database: Database, vote: int, holds: dict[str, bool], judge: str) -> None:
    """Keep what a judge said of a vote's conversation, and put the vote into the categories that hold."""
    with database.writing() as session:
        row = session.get(VoteRow, vote, with_for_update=True)
        if row is None:
            return  # deleted in the meantime
        for category, value in holds.items():
            session.merge(LabelRow(vote=vote, category=category, holds=value, judge=judge))
        found = {name for name, value in holds.items() if value}
        row.categories = packed((unpacked(row.categories) - set(holds)) | found)


def labelled(database: Database) -> set[int]:
    """The numbers of votes that a judge has looked at."""
    with database.reading() as session:
        return set(session.scalars(select(LabelRow.vote).distinct()))


def add(database: Database, conversations: Iterable[Conversation]) -> tuple[int, int]:
    """Take in battles with their votes, many to a transaction: how many were new, and how many were there before."""
    added = skipped = 0
    batch: list[Conversation] = []
    for conversation in conversations:
        batch.append(conversation)
        if len(batch) == _BATCH:
            new = _add(database, batch)
            added, skipped, batch = added + new, skipped + len(batch) - new, []
    new = _add(database, batch)
    return added + new, skipped + len(batch) - new


def _add(database: Database, batch: Sequence[Conversation]) -> int:
    # Texts are looked at before the transaction, which others wait for.
    seen = [traits(each.turns, each.battle.modality) if each.vote else None for each in batch]
    added = 0
    with database.writing() as session:
        for conversation, found in zip(batch, seen, strict=True):
            if session.get(BattleRow, conversation.battle.id) is not None:
                continue
            row = battle_row(conversation.battle)
            session.add(row)
            session.flush()
            turns = [_add_turn(session, row.id, turn, voted=found is not None) for turn in conversation.turns]
            if conversation.vote and found:
                session.add(vote_row(session, row, conversation.vote, turns, found))
            session.flush()
            added += 1
    return added


def _add_turn(session: Session, battle: str, turn: Turn, *, voted: bool) -> int:
    row = TurnRow(
        battle=battle, number=turn.number, prompt=clean(turn.prompt), asked_at=turn.asked.timestamp(), voted=voted
    )
    session.add(row)
    session.flush()
    session.add_all(answer_row(row.id, side, answer) for side, answer in zip(SIDES, turn.answers, strict=False))
    return row.id


def _ballot(session: Session, vote: VoteRow, battle: BattleRow) -> Ballot:
    voted = select(TurnRow).where(TurnRow.battle == battle.id, TurnRow.voted).order_by(TurnRow.number)
    rows = session.scalars(voted).all()
    loaded = load_turns(session, rows, pictures=False)
    if not rows:
        raise StoreUnavailable(f"vote {vote.number} has lost its turns")
    return Ballot(
        vote.number,
        battle_of(battle),
        tuple(loaded[row.id] for row in rows),
        vote_of(vote),
        vote.language,
        unpacked(vote.categories),
        unpacked(vote.marks),
        Style(vote.length_a, vote.headers_a, vote.lists_a, vote.bold_a),
        Style(vote.length_b, vote.headers_b, vote.lists_b, vote.bold_b),
        vote.blind,
        vote.repeats,
    )
