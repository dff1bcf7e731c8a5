"""What the commands of `mesh arena` do. Each returns its exit code."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError

from mesh.config import ConfigError
from mesh.counted import counted
from webui.data import fastchat, parquet
from webui.data.config import (
    AuditConfig,
    ExportConfig,
    ForgetConfig,
    ImportConfig,
    LabelConfig,
    ReportConfig,
    StatsConfig,
    anchor_of,
)
from webui.data.judge import NoLabel, ask
from webui.data.preferences import preferences
from webui.gateway import api_url
from webui.leaderboard import table
from webui.leaderboard.board import Board, BoardRules, rate, rate_with_style
from webui.leaderboard.categories import CATEGORIES, OVERALL, present
from webui.leaderboard.report import report as page
from webui.records import Conversation
from webui.store import archive
from webui.store.store import SqlStore, open_store
from webui.store.tallies import SqlVotes
from webui.trust.voters import suspicions


def export(config: ExportConfig) -> int:
    """Write votes to a file."""
    left_out: Counter[str] = Counter()
    with _open(config.store) as store, _replaced(config.out) as target:
        ballots = archive.ballots(store.database)
        if config.form == "parquet":
            written = parquet.write(target, ballots, texts=config.texts)
        elif config.form == "battles":
            written = _write_list(target, map(fastchat.battle, ballots))
        elif config.form == "log":
            written = _write_lines(target, map(fastchat.log_line, ballots))
        else:
            excluded = SqlVotes(store.database).excluded()
            written = _write_lines(target, preferences(ballots, excluded, left_out))
    _say(f"{counted(written, 'vote')} to {config.out}")
    _say_left_out(left_out)
    return 0


def import_(config: ImportConfig) -> int:
    """Take in FastChat's votes; lines that hold none are counted by reason."""
    left_out: Counter[str] = Counter()
    with closing(open_store(config.store)) as store:
        added, known = archive.add(store.database, _conversations(config.file, store, left_out))
    _say(f"{counted(added, 'vote')} taken in, {known:,} were there before")
    _say_left_out(left_out)
    return 0 if added or known else 1


def stats(config: StatsConfig) -> int:
    """Print counts and a board."""
    if config.category not in CATEGORIES:
        raise ConfigError(f"--category must be one of {', '.join(CATEGORIES)}, not '{config.category}'")
    with _open(config.store) as store:
        votes = SqlVotes(store.database)
        tally, excluded = votes.tally(), votes.excluded()
    marks = Counter[str]()
    for group, number in tally.items():
        marks.update({mark: number for mark in group.marks.strip(",").split(",") if mark})
    board = rate(tally, config.category, BoardRules(anchor=anchor_of(config.anchor)))
    _say(_text_table(board))
    _say(table.summary(board, datetime.now(UTC)))
    _say(f"categories: {', '.join(category.name for category in present(tally))}")
    if marks:
        _say("marked: " + ", ".join(f"{mark} {number:,}" for mark, number in marks.most_common()))
    if excluded:
        _say(f"voters left out: {len(excluded):,}")
    return 0


def report(config: ReportConfig) -> int:
    """Write the leaderboard as a page."""
    rules = BoardRules(
        anchor=anchor_of(config.anchor),
        intervals=config.intervals,
        rounds=config.rounds,
        seed=config.seed,
        minimum_votes=config.minimum_votes,
    )
    with _open(config.store) as store:
        votes = SqlVotes(store.database)
        tally, days, ballots = votes.tally(), votes.days(), votes.ballots()
    others = [rate(tally, category.name, rules) for category in present(tally) if category.name != OVERALL]
    boards = [rate(tally, OVERALL, rules), rate_with_style(ballots, OVERALL, rules), *others]
    with _replaced(config.out) as target:
        target.write_text(page(config.title, boards, days, {}, datetime.now(UTC), ballots), encoding="utf-8")
    _say(f"{counted(boards[0].votes, 'vote')}, {counted(len(boards), 'board')} to {config.out}")
    return 0


def audit(config: AuditConfig) -> int:
    """List suspicious voters, and exclude them if told to."""
    with _open(config.store) as store:
        votes = SqlVotes(store.database)
        tested = suspicions(votes.ballots(), seed=config.seed)
        found = [suspicion for suspicion in tested if suspicion.p <= config.alpha]
        for suspicion in found:
            _say(f"{suspicion.voter}  {counted(suspicion.votes, 'vote')}  p = {suspicion.p:.2g}")
        _say(
            f"suspicious: {len(found):,} of {counted(len(tested), 'voter with enough votes')}; "
            f"of honest ones about {config.alpha:.1%} are, by chance"
        )
        if config.exclude:
            votes.exclude({s.voter: f"votes unlike all others' (p = {s.p:.2g})" for s in found})
            _say(f"left out of the ratings from now on: {counted(len(found), 'voter')}")
    return 0


def label(config: LabelConfig) -> int:
    """Ask a judge about votes that none has looked at."""
    failed = done = 0
    client = OpenAI(base_url=api_url(config.gateway), api_key=config.api_key, timeout=120, max_retries=2)
    with _open(config.store) as store, client:
        known = archive.labelled(store.database)
        for ballot in archive.ballots(store.database):
            if ballot.number in known:
                continue
            if done + failed == config.limit:
                break
            try:
                holds = ask(client, config.model, [turn.prompt for turn in ballot.turns])
            except NoLabel:
                failed += 1
                continue
            except OpenAIError as error:
                _say(f"the gateway gave no answer: {error}", error=True)
                return 1
            archive.label(store.database, ballot.number, holds, config.model)
            done += 1
    _say(f"{counted(done, 'vote')} labelled, {counted(failed, 'answer')} could not be read")
    return 0 if done or not failed else 1


def forget(config: ForgetConfig) -> int:
    """Delete what a voter left."""
    with _open(config.store) as store:
        battles = store.delete_voter(config.voter)
    _say(f"{counted(battles, 'battle')} deleted")
    return 0 if battles else 1


def _open(where: str) -> closing[SqlStore]:
    """The store, which has to be there. Raises ConfigError, StoreUnavailable."""
    if "://" not in where and not Path(where).is_file():
        raise ConfigError(f"there are no votes: no file {where}; mesh-webui makes it, --store names another one")
    return closing(open_store(where))


@contextmanager
def _replaced(path: Path) -> Generator[Path]:
    """A file beside `path` that takes its place when all is written, and never half."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    written = 0
    with path.open("w", encoding="utf-8") as target:
        for row in rows:
            target.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_list(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """One JSON list, an element a line: FastChat's scripts read the whole, people and tools the lines."""
    written = 0
    with path.open("w", encoding="utf-8") as target:
        target.write("[")
        for row in rows:
            target.write(("\n" if not written else ",\n") + json.dumps(row, ensure_ascii=False))
            written += 1
        target.write("\n]\n")
    return written


def _conversations(path: Path, store: SqlStore, left_out: Counter[str]) -> Iterator[Conversation]:
    for line in _objects(path, left_out):
        try:
            yield fastchat.conversation(line, store.voter_id)
        except fastchat.NotAVote as error:
            left_out[str(error)] += 1


def _objects(path: Path, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, or of a file of one a line. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8") as source:
            start = source.read(1)
            source.seek(0)
            if start == "[":
                yield from json.load(source)
                return
            for line in source:
                try:
                    found = json.loads(line)
                except ValueError:
                    found = None
                if isinstance(found, dict):
                    yield found
                elif line.strip():
                    left_out["no JSON object"] += 1
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _say_left_out(left_out: Counter[str]) -> None:
    for reason, number in left_out.most_common():
        _say(f"{number:,} left out: {reason}")


def _text_table(board: Board) -> str:
    rows: list[list[str]] = [[*table.HEADERS[:6]]]
    for standing in board.standings:
        score = "" if standing.score is None else f"{standing.score:.0f}"
        won = f"{standing.won:.0%}" if standing.won is not None and standing.won == standing.won else ""
        rank = "" if standing.rank is None else str(standing.rank)
        rows.append([rank, standing.model, score, table.interval(standing), f"{standing.votes:,}", won])
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    left = (1, 3)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _say(text: str, *, error: bool = False) -> None:
    (sys.stderr if error else sys.stdout).write(text + "\n")
