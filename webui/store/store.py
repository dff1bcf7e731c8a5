"""What the pages write: each call is one transaction, on the disk when the call returns."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from webui.records import Battle, Conversation, Flag, Mode, Reaction, StoreUnavailable, Turn, Vote, VoteRefused
from webui.store.database import BUSY_SECONDS, Database, connect
from webui.store.rows import (
    SIDES,
    answer_row,
    battle_of,
    battle_row,
    clean,
    flag_row,
    load_turns,
    packed,
    unpacked,
    vote_of,
)
from webui.store.tables import (
    AgreementRow,
    AnswerRow,
    BattleRow,
    ExcludedRow,
    FlagRow,
    PictureRow,
    SettingRow,
    ShownRow,
    TurnRow,
    VoteRow,
)
from webui.traits.conversation import Traits, traits

_SALT: Final = "salt"
# The same person with the same prompt again: one opinion, not two.
REPEATED: Final = "repeated"
SECONDS_A_DAY: Final = 86_400


class SqlStore:
    """Implements `webui.records.Store`. Open it with `open_store`."""

    def __init__(self, database: Database, salt: bytes) -> None:
        self.database = database
        self._salt = salt

    def voter_id(self, secret: str) -> str:
        """The hash of a visitor's cookie with the salt of this store: 32 hexadecimal digits."""
        return hmac.new(self._salt, secret.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]

    def secret(self, purpose: str) -> bytes:
        """A secret of this store for something else: the same after a restart, another one for each purpose."""
        return hmac.new(purpose.encode(), self._salt, hashlib.sha256).digest()

    def open_battle(self, battle: Battle) -> None:
        """A battle that begins; before its first turn. Raises StoreUnavailable."""
        with self.database.writing() as session:
            session.add(battle_row(battle))

    def save_turn(self, battle: str, turn: Turn, flags: Sequence[Flag] = ()) -> None:
        """A turn that has ended; it takes the place of that number's and all later turns. Raises StoreUnavailable."""
        with self.database.writing() as session:
            if _battle(session, battle) is None:
                raise StoreUnavailable(f"there is no battle {battle[:40]}: its voter may have deleted it")
            _drop_turns(session, battle, turn.number)
            row = TurnRow(battle=battle, number=turn.number, prompt=clean(turn.prompt), asked_at=turn.asked.timestamp())
            session.add(row)
            session.flush()
            session.add_all(answer_row(row.id, side, answer) for side, answer in zip(SIDES, turn.answers, strict=False))
            session.add_all(flag_row(row.id, flag) for flag in flags)
            _show(session, row.id, turn)

    def vote(self, vote: Vote) -> None:
        """The vote of a battle, kept once. Raises VoteRefused, StoreUnavailable."""
        with self.database.reading() as session:
            turns, conversation = _turns_to_vote_on(session, vote)
            modality = conversation.battle.modality
        # Looking at texts takes its time; nobody else should wait for that.
        seen = traits(conversation.turns, modality)
        with self.database.writing() as session:
            battle = _open_to(session, vote)
            before = session.scalar(select(VoteRow).where(VoteRow.battle == vote.battle))
            if before is not None:
                _require_same(before, vote)
                return
            if _turn_ids(session, vote) != turns:
                raise VoteRefused("The answers changed in the meantime; please look at them and vote again.")
            session.execute(update(TurnRow).where(TurnRow.id.in_(turns)).values(voted=True))
            session.add(vote_row(session, battle, vote, turns, seen))

    def votes_of(self, voter: str, day: datetime) -> int:
        """How many votes of a voter were kept on the day of that moment, in UTC. Raises StoreUnavailable."""
        with self.database.reading() as session:
            cast_then = select(func.count()).where(VoteRow.voter == voter, VoteRow.day == _day(day))
            return session.scalar(cast_then) or 0

    def react(self, battle: str, turn: int, side: Literal["a", "b"], reaction: Reaction | None) -> None:
        """What a person thinks of one answer; None takes it back. Raises StoreUnavailable."""
        with self.database.writing() as session:
            row = _turn(session, battle, turn)
            wanted = update(AnswerRow).where(AnswerRow.turn == row.id, AnswerRow.side == side)
            session.execute(wanted.values(reaction=reaction))

    def flag(self, battle: str, turn: int, flag: Flag) -> None:
        """A mark that comes after the turn was saved; a vote on that turn gets it, too. Raises StoreUnavailable."""
        with self.database.writing() as session:
            row = _turn(session, battle, turn)
            session.add(flag_row(row.id, flag))
            vote = session.scalar(select(VoteRow).where(VoteRow.battle == battle))
            if vote is not None and row.voted:
                vote.marks = packed(unpacked(vote.marks) | {flag.kind})

    def share(self, battle: str) -> str:
        """The key that opens a battle: the same each time. Raises StoreUnavailable."""
        with self.database.writing() as session:
            row = _battle(session, battle, lock=True)
            if row is None:
                raise StoreUnavailable(f"there is no battle {battle[:40]}: its voter may have deleted it")
            key = row.share_key = row.share_key or secrets.token_urlsafe(16)
            return key

    def shared(self, key: str) -> Conversation | None:
        """The battle of such a key, as it is now. Raises StoreUnavailable."""
        with self.database.reading() as session:
            row = session.scalar(select(BattleRow).where(BattleRow.share_key == key))
            return _conversation(session, row) if row else None

    def unfinished(self, voter: str, mode: Mode, since: datetime) -> Conversation | None:
        """The last battle that a voter began in a mode, if that was since then and it has turns but no vote.

        Raises StoreUnavailable.
        """
        with self.database.reading() as session:
            begun = select(BattleRow).where(BattleRow.voter == voter, BattleRow.mode == mode)
            row = session.scalar(begun.order_by(BattleRow.opened_at.desc()).limit(1))
            if row is None or row.opened_at < since.timestamp():
                return None
            found = _conversation(session, row)
            return found if found.turns and found.vote is None else None

    def agree(self, voter: str, terms: str, at: datetime) -> None:
        """A voter agrees to the terms with this hash; the first time counts. Raises StoreUnavailable."""
        with self.database.writing() as session:
            if session.get(AgreementRow, (voter, terms)) is None:
                session.add(AgreementRow(voter=voter, terms=terms, agreed_at=at.timestamp()))

    def agreed(self, voter: str, terms: str) -> bool:
        """Whether a voter has agreed to the terms with this hash. Raises StoreUnavailable."""
        with self.database.reading() as session:
            return session.get(AgreementRow, (voter, terms)) is not None

    def delete_voter(self, voter: str) -> int:
        """Take out all that a voter left; returns how many battles that were. Raises StoreUnavailable."""
        with self.database.writing() as session:
            gone = delete(BattleRow).where(BattleRow.voter == voter)
            battles = cast("CursorResult[Any]", session.execute(gone)).rowcount
            for table in (ExcludedRow, AgreementRow):
                session.execute(delete(table).where(table.voter == voter))
            session.execute(delete(PictureRow).where(~PictureRow.key.in_(select(ShownRow.picture))))
            return battles

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()


def open_store(where: str | Path, *, busy: float = BUSY_SECONDS) -> SqlStore:
    """The store in a file of SQLite or at a URL, made if need be. `busy`: seconds that a write waits for another one.

    Raises StoreUnavailable.
    """
    database = connect(where, busy=busy)
    try:
        with database.writing() as session:
            row = session.get(SettingRow, _SALT)
            if row is None:
                row = SettingRow(name=_SALT, value=secrets.token_hex(32))
                session.add(row)
        return SqlStore(database, bytes.fromhex(row.value))
    except BaseException:
        database.close()
        raise


def _battle(session: Session, battle: str, *, lock: bool = False) -> BattleRow | None:
    return session.get(BattleRow, battle, with_for_update=True if lock else None)


def _conversation(session: Session, row: BattleRow) -> Conversation:
    turns = session.scalars(_current(row.id)).all()
    vote = session.scalar(select(VoteRow).where(VoteRow.battle == row.id))
    loaded = load_turns(session, turns)
    return Conversation(
        battle=battle_of(row),
        turns=tuple(loaded[turn.id] for turn in turns),
        vote=vote_of(vote) if vote else None,
    )


def _current(battle: str) -> Any:
    return select(TurnRow).where(TurnRow.battle == battle, TurnRow.current).order_by(TurnRow.number)


def _turn(session: Session, battle: str, number: int) -> TurnRow:
    row = session.scalar(_current(battle).where(TurnRow.number == number))
    if row is None:
        raise StoreUnavailable(f"battle {battle[:40]} has no turn {number}")
    return row


def _drop_turns(session: Session, battle: str, number: int) -> None:
    """Make room for a turn of this number: it and the later ones go, but for what was voted on."""
    later = (TurnRow.battle == battle, TurnRow.number >= number)
    session.execute(delete(TurnRow).where(*later, ~TurnRow.voted))
    session.execute(update(TurnRow).where(*later).values(current=False))


def _show(session: Session, turn: int, value: Turn) -> None:
    for position, picture in enumerate(value.pictures):
        if session.get(PictureRow, picture.key) is None:
            session.add(
                PictureRow(
                    key=picture.key,
                    data=picture.data,
                    media_type=picture.media_type,
                    width=picture.width,
                    height=picture.height,
                )
            )
            session.flush()
        session.add(ShownRow(turn=turn, position=position, picture=picture.key))


def _open_to(session: Session, vote: Vote) -> BattleRow:
    """The battle that a vote is about, locked until the transaction ends. Raises VoteRefused."""
    battle = _battle(session, vote.battle, lock=True)
    if battle is None:
        raise VoteRefused("This battle is not known here; please start a new one.")
    if battle.voter != vote.voter:
        raise VoteRefused("This battle is somebody else's.")
    if battle.model_b is None:
        raise VoteRefused("A chat with one model has no vote.")
    return battle


def _turn_ids(session: Session, vote: Vote) -> list[int]:
    return [row.id for row in session.scalars(_current(vote.battle).where(TurnRow.number <= vote.turn))]


def _turns_to_vote_on(session: Session, vote: Vote) -> tuple[list[int], Conversation]:
    """The ids of the turns up to the vote's, and what they hold. Raises VoteRefused."""
    battle = _open_to(session, vote)
    before = session.scalar(select(VoteRow).where(VoteRow.battle == vote.battle))
    if before is not None:
        _require_same(before, vote)
    rows = session.scalars(_current(vote.battle).where(TurnRow.number <= vote.turn)).all()
    loaded = load_turns(session, rows, pictures=False)
    turns = tuple(loaded[row.id] for row in rows)
    if before is None:
        if not turns or turns[-1].number != vote.turn:
            raise VoteRefused(f"There is no turn {vote.turn} to vote on.")
        if len(turns[-1].answers) < 2 or not all(answer.complete for answer in turns[-1].answers):
            raise VoteRefused("Both answers must be complete before a vote.")
    return [row.id for row in rows], Conversation(battle=battle_of(battle), turns=turns)


def _require_same(before: VoteRow, vote: Vote) -> None:
    if (before.turn, before.choice) != (vote.turn, vote.choice):
        raise VoteRefused("This battle has its vote already.")


def vote_row(session: Session, battle: BattleRow, vote: Vote, turns: Sequence[int], seen: Traits) -> VoteRow:
    """A vote on the turns with these ids as a row; what was voted before decides `repeats`."""
    marks = set(session.scalars(select(FlagRow.kind).where(FlagRow.turn.in_(turns)).distinct()))
    same = select(func.count()).select_from(VoteRow).where(VoteRow.prompt_normal == seen.prompt_normal)
    mine = same.where(VoteRow.voter == vote.voter, VoteRow.prompt_exact == seen.prompt_exact)
    if session.scalar(mine.where(*_same_models(battle))):
        marks.add(REPEATED)
    return VoteRow(
        battle=vote.battle,
        turn=vote.turn,
        choice=vote.choice,
        voter=vote.voter,
        cast_at=vote.cast.timestamp(),
        day=_day(vote.cast),
        blind=battle.mode == "battle",
        model_a=battle.model_a,
        model_b=battle.model_b,
        language=seen.language,
        categories=packed(seen.categories),
        marks=packed(marks),
        prompt_exact=seen.prompt_exact,
        prompt_normal=seen.prompt_normal,
        repeats=session.scalar(same) or 0,
        length_a=seen.a.length,
        length_b=seen.b.length,
        headers_a=seen.a.headers,
        headers_b=seen.b.headers,
        lists_a=seen.a.lists,
        lists_b=seen.b.lists,
        bold_a=seen.a.bold,
        bold_b=seen.b.bold,
    )


def _day(at: datetime) -> int:
    """Counted from 1970, in UTC."""
    return int(at.timestamp() // SECONDS_A_DAY)


def _same_models(battle: BattleRow) -> tuple[Any, ...]:
    pair = (battle.model_a, battle.model_b)
    return VoteRow.model_a.in_(pair), VoteRow.model_b.in_(pair)
