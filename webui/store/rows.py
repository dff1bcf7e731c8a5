"""Values of `webui.records` as rows, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, cast

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from webui.records import Answer, Battle, Choice, Finish, Flag, FlagKind, Modality, Mode, Picture, Turn, Vote
from webui.store.tables import AnswerRow, BattleRow, FlagRow, PictureRow, ShownRow, TurnRow, VoteRow

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")


def battle_row(battle: Battle) -> BattleRow:
    """A battle as a row."""
    return BattleRow(
        id=battle.id,
        mode=battle.mode,
        modality=battle.modality,
        model_a=battle.models[0],
        model_b=battle.models[1] if len(battle.models) > 1 else None,
        voter=battle.voter,
        opened_at=battle.opened.timestamp(),
        probability=battle.probability,
        parameters=dict(battle.parameters),
    )


def battle_of(row: BattleRow) -> Battle:
    """A row as a battle."""
    return Battle(
        id=row.id,
        mode=cast("Mode", row.mode),
        models=(row.model_a,) if row.model_b is None else (row.model_a, row.model_b),
        voter=row.voter,
        opened=moment(row.opened_at),
        modality=cast("Modality", row.modality),
        probability=row.probability,
        parameters=row.parameters,
    )


def answer_row(turn: int, side: Side, answer: Answer) -> AnswerRow:
    """An answer as a row of the turn with this id."""
    return AnswerRow(
        turn=turn,
        side=side,
        text=clean(answer.text),
        reasoning=clean(answer.reasoning),
        finish=answer.finish,
        error=answer.error,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        first_token=answer.first_token,
        duration=answer.duration,
    )


def flag_row(turn: int, flag: Flag) -> FlagRow:
    """A flag as a row of the turn with this id."""
    return FlagRow(turn=turn, kind=flag.kind, side=flag.side or "", detail=clean(flag.detail))


def vote_of(row: VoteRow) -> Vote:
    """A row as a vote."""
    return Vote(
        battle=row.battle,
        turn=row.turn,
        choice=cast("Choice", row.choice),
        voter=row.voter,
        cast=moment(row.cast_at),
    )


def load_turns(session: Session, rows: Sequence[TurnRow], *, pictures: bool = True) -> dict[int, Turn]:
    """The turns of these rows by row id, with their answers; without the images' data unless `pictures`."""
    ids = [row.id for row in rows]
    answers: defaultdict[int, list[Answer]] = defaultdict(list)
    wanted = select(AnswerRow).where(AnswerRow.turn.in_(ids)).order_by(AnswerRow.turn, AnswerRow.side)
    for row in session.scalars(wanted):
        answers[row.turn].append(_answer_of(row))
    shown = _pictures(session, ids) if pictures else {}
    return {
        row.id: Turn(
            number=row.number,
            prompt=row.prompt,
            asked=moment(row.asked_at),
            answers=tuple(answers[row.id]),
            pictures=tuple(shown.get(row.id, ())),
        )
        for row in rows
    }


def load_flags(session: Session, chosen: ColumnElement[bool]) -> dict[int, list[Flag]]:
    """The flags of the turns that are chosen, by row id of the turn."""
    found: defaultdict[int, list[Flag]] = defaultdict(list)
    wanted = select(FlagRow).join(TurnRow, FlagRow.turn == TurnRow.id).where(chosen).order_by(FlagRow.id)
    for row in session.scalars(wanted):
        side = cast("Side", row.side) if row.side else None
        found[row.turn].append(Flag(cast("FlagKind", row.kind), side, row.detail))
    return dict(found)


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as a time."""
    return datetime.fromtimestamp(seconds, UTC)


def clean(text: str) -> str:
    """Without what databases do not take: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def packed(words: Iterable[str]) -> str:
    """A set of words as a sorted text that can be searched for `,word,`; empty when there are none."""
    listed = ",".join(sorted(set(words)))
    return f",{listed}," if listed else ""


def unpacked(text: str) -> frozenset[str]:
    """The words of `packed`."""
    return frozenset(text.strip(",").split(",")) if text else frozenset()


def _answer_of(row: AnswerRow) -> Answer:
    return Answer(
        text=row.text,
        finish=cast("Finish", row.finish),
        reasoning=row.reasoning,
        error=row.error,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        first_token=row.first_token,
        duration=row.duration,
    )


def _pictures(session: Session, turns: Sequence[int]) -> dict[int, list[Picture]]:
    found: defaultdict[int, list[Picture]] = defaultdict(list)
    wanted = (
        select(ShownRow.turn, PictureRow)
        .join(PictureRow, ShownRow.picture == PictureRow.key)
        .where(ShownRow.turn.in_(turns))
        .order_by(ShownRow.turn, ShownRow.position)
    )
    for turn, row in session.execute(wanted):
        found[turn].append(
            Picture(key=row.key, data=row.data, media_type=row.media_type, width=row.width, height=row.height)
        )
    return dict(found)
