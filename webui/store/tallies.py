"""What ratings read (`webui.leaderboard.ballots.Source`), and what they decide about voters and categories."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.orm import Session

from webui.leaderboard.ballots import STYLE, Ballots, Group, Tally
from webui.store.database import Database
from webui.store.tables import ExcludedRow, VoteRow

# So many votes on the same prompts are different people's views; more are a fashion that would outweigh the rest.
DISTINCT: Final = 10
_CHUNK: Final = 20_000

_GROUP: Final[tuple[Any, ...]] = (
    VoteRow.model_a,
    VoteRow.model_b,
    VoteRow.choice,
    VoteRow.language,
    VoteRow.categories,
    VoteRow.marks,
    # A literal: PostgreSQL would take two parameters of one value for two expressions, and not group by the first.
    (VoteRow.repeats < literal_column(str(DISTINCT))).label("distinct"),
)


class SqlVotes:
    """The votes of a store. Implements `webui.leaderboard.ballots.Source`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def version(self) -> str:
        """Another text whenever votes have come, gone or changed."""
        texts = func.sum(func.length(VoteRow.categories) + func.length(VoteRow.marks))
        with self._database.reading() as session:
            votes = session.execute(select(func.count(), func.max(VoteRow.number), texts).where(*_counted())).one()
        return ":".join(str(value or 0) for value in votes)

    def tally(self) -> Tally:
        """Votes by group."""
        wanted = select(*_GROUP, func.count()).where(*_counted()).group_by(*_GROUP)
        with self._database.reading() as session:
            return {_group(tuple(row[:-1])): int(row[-1]) for row in session.execute(wanted)}

    def days(self) -> Mapping[int, Tally]:
        """Votes by day and group; languages and categories are left out, which no history is drawn by."""
        keys = (VoteRow.day, VoteRow.model_a, VoteRow.model_b, VoteRow.choice, VoteRow.marks)
        wanted = select(*keys, func.count()).where(*_counted()).group_by(*keys).order_by(VoteRow.day)
        found: defaultdict[int, dict[Group, int]] = defaultdict(dict)
        with self._database.reading() as session:
            for when, model_a, model_b, choice, marks, votes in session.execute(wanted):
                found[int(when)][Group(model_a, model_b, choice, "", "", marks, True)] = int(votes)
        return dict(found)

    def ballots(self) -> Ballots:
        """Votes one by one, in their order."""
        style = [getattr(VoteRow, f"{name}_{side}") for name in STYLE for side in "ab"]
        wanted = select(VoteRow.voter, VoteRow.cast_at, *style, *_GROUP).where(*_counted()).order_by(VoteRow.number)
        return self._load(wanted)

    def excluded(self) -> dict[str, str]:
        """Voters whose votes do not count, and why."""
        with self._database.reading() as session:
            return {row.voter: row.reason for row in session.scalars(select(ExcludedRow))}

    def exclude(self, reasons: Mapping[str, str]) -> None:
        """From now on these voters' votes do not count."""
        with self._database.writing() as session:
            for voter, reason in reasons.items():
                session.merge(ExcludedRow(voter=voter, reason=reason, since=time.time()))

    def include(self, voters: Iterable[str]) -> None:
        """Take voters back in."""
        with self._database.writing() as session:
            _delete_excluded(session, list(voters))

    def _load(self, wanted: Any) -> Ballots:
        groups: dict[Any, int] = {}
        voters: dict[str, int] = {}
        chunks: list[tuple[Any, ...]] = []
        columns = 2 * len(STYLE)
        with self._database.reading() as session:
            for part in session.execute(wanted.execution_options(yield_per=_CHUNK)).partitions():
                rows = [tuple(row) for row in part]
                numbers = np.array([row[1 : columns + 2] for row in rows], np.float64)
                keys = [groups.setdefault(row[columns + 2 :], len(groups)) for row in rows]
                people = [voters.setdefault(row[0], len(voters)) for row in rows]
                chunks.append((numbers, np.array(keys, np.int64), np.array(people, np.int64)))
        empty = (np.zeros((0, columns + 1)), np.zeros(0, np.int64), np.zeros(0, np.int64))
        numbers, group, voter = (np.concatenate(parts) for parts in zip(*(chunks or [empty]), strict=True))
        style = numbers[:, 1:].astype(np.int32).reshape(len(numbers), len(STYLE), 2)
        return Ballots(tuple(_group(key) for key in groups), group, numbers[:, 0], style, voter, tuple(voters))


def _counted() -> tuple[ColumnElement[bool], ...]:
    return VoteRow.blind.is_(True), VoteRow.voter.not_in(select(ExcludedRow.voter))


def _group(key: tuple[Any, ...]) -> Group:
    model_a, model_b, choice, language, categories, marks, distinct = key
    return Group(model_a, model_b, choice, language, categories, marks, bool(distinct))  # SQLite counts booleans


def _delete_excluded(session: Session, voters: list[str]) -> None:
    for voter in voters:
        row = session.get(ExcludedRow, voter)
        if row is not None:
            session.delete(row)
