"""The tables. Times are seconds since 1970; sides are `a` and `b`, and `a` alone in direct chats.

Everything that a person left belongs to a battle and goes with it. What ratings need of a vote (models, traits, marks)
is on its row, so that a board is one GROUP BY.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Counted up by the database, also by SQLite, which does that for INTEGER alone.
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")
_ID: Final = 128
_MODEL: Final = 256


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"}
    )


class SettingRow(Table):
    """What belongs to the store as a whole: `salt`, with which voters are hashed."""

    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class BattleRow(Table):
    """A conversation with one or two models. `share_key` opens it to those who have it."""

    __tablename__ = "battles"
    __table_args__ = (Index(None, "voter"), Index(None, "opened_at"))

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    mode: Mapped[str] = mapped_column(String(16))
    modality: Mapped[str] = mapped_column(String(16))
    model_a: Mapped[str] = mapped_column(String(_MODEL))
    model_b: Mapped[str | None] = mapped_column(String(_MODEL))
    voter: Mapped[str] = mapped_column(String(64))
    opened_at: Mapped[float]
    probability: Mapped[float | None]
    parameters: Mapped[dict[str, float]] = mapped_column(JSON)
    share_key: Mapped[str | None] = mapped_column(String(64), unique=True, default=None)


class TurnRow(Table):
    """A prompt. One that was replaced after a vote on it stays, `voted` and no more `current`."""

    __tablename__ = "turns"
    __table_args__ = (Index(None, "battle", "number"),)

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    battle: Mapped[str] = mapped_column(ForeignKey("battles.id", ondelete="CASCADE"))
    number: Mapped[int]
    prompt: Mapped[str] = mapped_column(Text)
    asked_at: Mapped[float]
    current: Mapped[bool] = mapped_column(default=True)
    voted: Mapped[bool] = mapped_column(default=False)


class AnswerRow(Table):
    """What one model said. Durations in seconds from the request."""

    __tablename__ = "answers"

    turn: Mapped[int] = mapped_column(ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    side: Mapped[str] = mapped_column(String(1), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    reasoning: Mapped[str] = mapped_column(Text)
    finish: Mapped[str] = mapped_column(String(32))
    error: Mapped[str] = mapped_column(String(64))
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    first_token: Mapped[float | None]
    duration: Mapped[float | None]
    reaction: Mapped[str | None] = mapped_column(String(16), default=None)


class PictureRow(Table):
    """An image, once for all turns that show it."""

    __tablename__ = "pictures"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(64))
    width: Mapped[int]
    height: Mapped[int]
    data: Mapped[bytes] = mapped_column(LargeBinary)


class ShownRow(Table):
    """Which image a turn shows, in order of `position`."""

    __tablename__ = "shown"
    __table_args__ = (Index(None, "picture"),)

    turn: Mapped[int] = mapped_column(ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    picture: Mapped[str] = mapped_column(ForeignKey("pictures.key"))


class FlagRow(Table):
    """A mark on a turn; `side` is empty for the prompt."""

    __tablename__ = "flags"
    __table_args__ = (Index(None, "turn"),)

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    turn: Mapped[int] = mapped_column(ForeignKey("turns.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))
    side: Mapped[str] = mapped_column(String(1))
    detail: Mapped[str] = mapped_column(Text)


class VoteRow(Table):
    """The one vote of a battle, with all that ratings need.

    `number` counts up in the order of votes. `day` counts from 1970, in UTC. `blind`: the models were hidden.
    `categories` and `marks` (kinds of flags on the turns voted on, and `repeated`) are sorted, with a comma before and
    behind each. `repeats`: how many earlier votes had the same prompts, but for case and punctuation. The rest are
    counts of style.py.
    """

    __tablename__ = "votes"
    __table_args__ = (
        *(Index(None, "voter", "number"), Index(None, "prompt_normal")),
        Index("ix_votes_tally", "model_a", "model_b", "choice"),
    )

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    battle: Mapped[str] = mapped_column(ForeignKey("battles.id", ondelete="CASCADE"), unique=True)
    turn: Mapped[int]
    choice: Mapped[str] = mapped_column(String(16))
    voter: Mapped[str] = mapped_column(String(64))
    cast_at: Mapped[float]
    day: Mapped[int]
    blind: Mapped[bool]
    model_a: Mapped[str] = mapped_column(String(_MODEL))
    model_b: Mapped[str] = mapped_column(String(_MODEL))
    language: Mapped[str] = mapped_column(String(16))
    categories: Mapped[str] = mapped_column(Text)
    marks: Mapped[str] = mapped_column(Text)
    prompt_exact: Mapped[str] = mapped_column(String(32))
    prompt_normal: Mapped[str] = mapped_column(String(32))
    repeats: Mapped[int]
    length_a: Mapped[int]
    length_b: Mapped[int]
    headers_a: Mapped[int]
    headers_b: Mapped[int]
    lists_a: Mapped[int]
    lists_b: Mapped[int]
    bold_a: Mapped[int]
    bold_b: Mapped[int]


class LabelRow(Table):
    """What a judge said of a vote's conversation: whether it belongs to a category."""

    __tablename__ = "labels"

    vote: Mapped[int] = mapped_column(ForeignKey("votes.number", ondelete="CASCADE"), primary_key=True)
    category: Mapped[str] = mapped_column(String(32), primary_key=True)
    holds: Mapped[bool]
    judge: Mapped[str] = mapped_column(String(_MODEL))


class AgreementRow(Table):
    """A voter who has agreed to the terms with this hash."""

    __tablename__ = "agreements"

    voter: Mapped[str] = mapped_column(String(64), primary_key=True)
    terms: Mapped[str] = mapped_column(String(64), primary_key=True)
    agreed_at: Mapped[float]


class ExcludedRow(Table):
    """A voter whose votes are kept and do not count, and why."""

    __tablename__ = "excluded"

    voter: Mapped[str] = mapped_column(String(64), primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    since: Mapped[float]
