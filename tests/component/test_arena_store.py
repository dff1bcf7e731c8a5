"""The arena's store, by one set of tests for SQLite and PostgreSQL; killed processes, locked and full databases."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select

from tests.component.arena_votes import START, battle, fill, turn, vote
from tests.harness import command, wait_until
from tests.postgres_server import PostgresServer
from webui.leaderboard.ballots import Group
from webui.records import Answer, Flag, Picture, StoreUnavailable, VoteRefused
from webui.store.store import SqlStore, open_store
from webui.store.tables import AgreementRow, PictureRow, Table, TurnRow, VoteRow
from webui.store.tallies import SqlVotes


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store's place, empty."""
    if request.param == "sqlite":
        return str(tmp_path / "votes.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database(tmp_path.name)


@pytest.fixture
def store(where: str) -> Generator[SqlStore]:
    opened = open_store(where)
    yield opened
    opened.close()


def count(store: SqlStore, table: type[Table]) -> int:
    with store.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_the_migrations_make_the_tables_that_the_code_knows(store: SqlStore) -> None:
    with store.database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"version_table": "arena_version"})
        assert compare_metadata(context, Table.metadata) == []


def test_a_battle_comes_back_as_it_was(store: SqlStore) -> None:
    picture = Picture(key="k", data=b"png", media_type="image/png", width=1, height=2)
    first = replace(turn(prompt="a\0b \ud800 ü"), pictures=(picture, picture))
    broken = Answer(text="", finish="error", error="worker_lost", reasoning="hm", first_token=0.5)
    second = replace(turn(2), answers=(turn().answers[0], broken))
    store.open_battle(replace(battle("x"), parameters={"temperature": 0.5}))
    store.save_turn("x", first)
    store.save_turn("x", second)
    store.vote(vote("x", "both_bad"))
    key = store.share("x")
    assert store.share("x") == key
    seen = store.shared(key)
    assert seen is not None
    assert seen.battle == replace(battle("x"), parameters={"temperature": 0.5})
    assert seen.turns == (replace(first, prompt="a\ufffdb ? ü"), second)
    assert seen.vote == vote("x", "both_bad")
    assert store.shared("x") is None
    assert count(store, PictureRow) == 1


def test_a_turn_takes_the_place_of_its_number_and_of_what_followed(store: SqlStore) -> None:
    store.open_battle(battle("x"))
    for number in (1, 2, 3):
        store.save_turn("x", turn(number))
    store.save_turn("x", turn(2, a="better"), [Flag("refusal", "a")])
    seen = store.shared(store.share("x"))
    assert seen is not None
    assert [(t.number, t.answers[0].text) for t in seen.turns] == [(1, "An animal."), (2, "better")]
    assert count(store, TurnRow) == 2


def test_a_vote_keeps_to_the_turns_that_it_was_about(store: SqlStore) -> None:
    store.open_battle(battle("x"))
    store.save_turn("x", turn())
    store.vote(vote("x"))
    store.save_turn("x", turn(a="another answer"))
    with store.database.reading() as session:
        rows = session.execute(select(TurnRow.voted, TurnRow.current).order_by(TurnRow.id)).all()
    assert [tuple(row) for row in rows] == [(True, False), (False, True)]
    store.flag("x", 1, Flag("identity", "a"))  # a mark on the new turn is none on the vote
    assert next(iter(SqlVotes(store.database).tally())).marks == ""


def test_one_vote_a_battle(store: SqlStore) -> None:
    store.open_battle(battle("x"))
    store.save_turn("x", turn())
    store.save_turn("x", turn(2))
    store.vote(vote("x", "a"))
    store.vote(vote("x", "a"))  # the same again is the same
    for other in (vote("x", "b"), vote("x", "a", number=2)):
        with pytest.raises(VoteRefused, match="already"):
            store.vote(other)
    assert count(store, VoteRow) == 1


def test_the_votes_of_a_voter_on_a_day(store: SqlStore) -> None:
    for days, votes in ((0, 2), (1, 1)):
        fill(store, [("red", "blue", "a")] * votes, voter="one", prefix=f"day-{days}", days=days)
    fill(store, [("red", "blue", "a")], voter="two", prefix="other")
    midnight = START.replace(hour=0)
    days = [midnight - timedelta(seconds=1), midnight, START, midnight + timedelta(days=1)]
    assert [store.votes_of("one", day) for day in days] == [0, 2, 2, 1]


def test_votes_that_are_no_votes(store: SqlStore) -> None:
    store.open_battle(battle("x"))
    store.open_battle(replace(battle("direct", mode="direct"), models=("red",)))
    stopped = replace(turn().answers[0], finish="stopped")
    store.save_turn("x", replace(turn(), answers=(turn().answers[0], stopped)))
    store.save_turn("direct", replace(turn(), answers=turn().answers[:1]))
    for refused, why in [
        (vote("y"), "not known"),
        (vote("x", voter="w"), "somebody else's"),
        (vote("x", number=2), "no turn 2"),
        (vote("x"), "complete"),
        (vote("direct"), "one model"),
    ]:
        with pytest.raises(VoteRefused, match=why):
            store.vote(refused)
    assert count(store, VoteRow) == 0


def test_many_at_once_make_one_vote_of_each_battle(where: str) -> None:
    """Two processes' stores, eight threads, each battle voted on by all of them, half for A and half for B."""
    stores = [open_store(where), open_store(where)]
    for index in range(6):
        stores[0].open_battle(battle(f"x{index}"))
        stores[0].save_turn(f"x{index}", turn())
    start = threading.Barrier(8)

    def cast(caster: int) -> int:
        kept = 0
        start.wait(timeout=10)
        for index in range(6):
            try:
                stores[caster % 2].vote(vote(f"x{index}", "a" if caster < 4 else "b"))
                kept += 1
            except VoteRefused:
                pass
        return kept

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(cast, range(8))) == 6 * 4
    assert count(stores[0], VoteRow) == 6
    for each in stores:
        each.close()


def test_ratings_see_votes_between_hidden_models_by_voters_who_count(store: SqlStore) -> None:
    votes = SqlVotes(store.database)
    versions = [votes.version()]
    fill(store, [("red", "blue", "a"), ("red", "blue", "a"), ("blue", "red", "tie")])
    fill(store, [("red", "blue", "b")], voter="w", prefix="w", days=2)
    store.open_battle(battle("named", mode="named"))
    store.save_turn("named", turn())
    store.vote(vote("named"))
    versions.append(votes.version())
    english = Group("red", "blue", "a", "en", "", "", True)
    assert votes.tally() == {
        english: 2,
        english._replace(choice="b"): 1,
        english._replace(model_a="blue", model_b="red", choice="tie"): 1,
    }
    ballots = votes.ballots()
    assert ballots.tally() == votes.tally()
    assert ballots.style[0].tolist() == [[3, 8], [0, 0], [0, 0], [0, 1]]
    assert [ballots.voters[index] for index in ballots.voter] == ["v", "v", "v", "w"]
    first, last = votes.days().values()
    assert (sum(first.values()), sum(last.values())) == (3, 1)
    votes.exclude({"w": "test"})
    versions.append(votes.version())
    assert sum(votes.tally().values()) == 3
    assert votes.excluded() == {"w": "test"}
    votes.include(["w"])
    assert sum(votes.tally().values()) == 4
    assert len(set(versions)) == 3


def test_the_same_prompt_again_is_told(store: SqlStore) -> None:
    for index, (prompt, voter) in enumerate(
        [("Hello there!", "v"), ("hello  THERE", "w"), ("Hello there!", "v"), ("Hello there!", "x")]
    ):
        name = f"x{index}"
        pair = ("blue", "red") if index == 2 else ("red", "blue")
        store.open_battle(battle(name, *pair, voter=voter))
        store.save_turn(name, turn(prompt=prompt))
        store.vote(vote(name, voter=voter))
    with store.database.reading() as session:
        rows = session.execute(select(VoteRow.repeats, VoteRow.marks).order_by(VoteRow.number)).all()
    assert [tuple(row) for row in rows] == [(0, ""), (1, ""), (2, ",repeated,"), (3, "")]


def test_flags_reach_the_vote_before_and_after_it(store: SqlStore) -> None:
    store.open_battle(battle("x"))
    store.save_turn("x", turn(), [Flag("refusal", "b", "declines")])
    store.vote(vote("x"))
    store.flag("x", 1, Flag("report"))
    assert [group.marks for group in SqlVotes(store.database).tally()] == [",refusal,report,"]


def test_a_voter_takes_everything_along(store: SqlStore) -> None:
    picture = Picture(key="k", data=b"png", media_type="image/png", width=1, height=1)
    for name, voter in (("x", "v"), ("y", "w")):
        store.open_battle(battle(name, voter=voter))
        store.save_turn(name, replace(turn(), pictures=(picture,)))
        store.react(name, 1, "a", "like")
        store.vote(vote(name, voter=voter))
        store.agree(voter, "terms", START)
    assert store.delete_voter("v") == 1
    assert {t.name: count_of(store, t.name) for t in Table.metadata.sorted_tables} == {
        "settings": 1,
        "battles": 1,
        "turns": 1,
        "answers": 2,
        "pictures": 1,
        "shown": 1,
        "votes": 1,
        "agreements": 1,
        **dict.fromkeys(("flags", "labels", "excluded"), 0),
    }
    assert store.delete_voter("w") == 1
    assert count(store, PictureRow) == 0
    with pytest.raises(StoreUnavailable, match="deleted"):
        store.save_turn("x", turn(2))  # one that still ran in another window


def test_terms_are_agreed_to_by_one_voter_in_one_version(store: SqlStore) -> None:
    store.agree("v", "terms", START)
    store.agree("v", "terms", START + timedelta(days=1))
    assert store.agreed("v", "terms")
    assert not store.agreed("v", "other terms")
    assert not store.agreed("w", "terms")
    with store.database.reading() as session:
        assert session.scalar(select(AgreementRow.agreed_at)) == START.timestamp()


def count_of(store: SqlStore, table: str) -> int:
    with store.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Table.metadata.tables[table])) or 0


def test_voters_are_hashes_that_another_store_does_not_share(where: str, tmp_path: Path) -> None:
    first, again, other = open_store(where), open_store(where), open_store(tmp_path / "other.db")
    assert first.voter_id("cookie") == again.voter_id("cookie") != first.voter_id("Cookie")
    assert other.voter_id("cookie") != first.voter_id("cookie")
    for each in (first, again, other):
        each.close()


# What follows is SQLite's own: its files, and processes that die in the middle.


def test_a_killed_process_loses_no_vote_that_it_acknowledged(tmp_path: Path) -> None:
    """A voter votes as fast as it goes and prints each vote when `vote` has returned; SIGKILL at some moment."""
    path = tmp_path / "votes.db"
    for life in range(3):
        with (tmp_path / "said").open("a+") as said:
            popen = subprocess.Popen(command("tests.component.arena_voter", str(path), str(life)), stdout=said)
            try:
                _wait_for_lines(tmp_path / "said", 25 * (life + 1), popen)
            finally:
                popen.send_signal(signal.SIGKILL)
                popen.wait(timeout=10)
        # A line that was cut is no acknowledgement.
        acknowledged = [line for line in (tmp_path / "said").read_text().split("\n")[:-1] if line]
        store = open_store(path)
        with store.database.reading() as session:
            kept = list(session.scalars(select(VoteRow.battle)))
        assert set(acknowledged) <= set(kept)
        assert len(kept) == len(set(kept))
        # The page did not hear back from the last one and sends it again.
        for name in acknowledged[-1:]:
            store.vote(vote(name))
        assert count(store, VoteRow) == len(kept)
        with store.database.reading() as session:
            assert session.connection().exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        store.close()


def _wait_for_lines(path: Path, lines: int, popen: subprocess.Popen[bytes]) -> None:
    def enough() -> bool:
        assert popen.poll() is None, "the voter has ended"
        return path.read_text().count("\n") >= lines

    wait_until(enough, within=30)


def test_a_locked_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "votes.db", busy=0.1)
    store.open_battle(battle("x"))
    store.save_turn("x", turn())
    other = sqlite3.connect(tmp_path / "votes.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="database is locked"):
        store.vote(vote("x"))
    assert SqlVotes(store.database).tally() == {}  # readers go on
    other.execute("ROLLBACK")
    other.close()
    store.vote(vote("x"))
    assert count(store, VoteRow) == 1
    store.close()


def test_a_full_disk(tmp_path: Path) -> None:
    """The kernel refuses to let the file grow, as it does when the disk is full."""
    done = subprocess.run(
        command("tests.component.arena_voter", str(tmp_path / "votes.db"), "0", "--file-limit", "300000"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    acknowledged = done.stdout.split()
    assert done.returncode == 3, done.stderr
    assert "votes.db cannot be used: " in done.stderr
    assert acknowledged
    store = open_store(tmp_path / "votes.db")
    with store.database.reading() as session:
        assert set(acknowledged) <= set(session.scalars(select(VoteRow.battle)))
    store.vote(vote(acknowledged[0]))
    store.close()


def test_stores_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").write_bytes(b"no database at all, and long enough to be looked at" * 100)
    for where, why in [
        (f"{tmp_path}/file/votes.db", "directory|exists"),
        (f"{tmp_path}/other", "not a database"),
        ("nonsense://x", "must be a file or a URL"),
        ("postgresql://u:secret@127.0.0.1:1/x", r"u:\*\*\*@127.0.0.1"),
    ]:
        with pytest.raises(StoreUnavailable, match=why):
            open_store(where)


def test_a_store_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "votes.db")) as store:
        fill(store, [("red", "blue", "a")])
    with closing(sqlite3.connect(tmp_path / "votes.db")) as other, other:
        other.execute("DROP TABLE agreements")
        other.execute("UPDATE arena_version SET version_num = '0001'")
    with closing(open_store(tmp_path / "votes.db")) as store:
        store.agree("v", "terms", START)
        assert count(store, VoteRow) == 1


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    open_store(tmp_path / "votes.db").close()
    with sqlite3.connect(tmp_path / "votes.db") as other:
        other.execute("UPDATE arena_version SET version_num = '9999'")
    other.close()
    with pytest.raises(StoreUnavailable, match="newer version"):
        open_store(tmp_path / "votes.db")


def test_the_file_is_its_owners_alone_and_written_to_the_disk(tmp_path: Path) -> None:
    store = open_store(tmp_path / "new" / "votes.db")
    with store.database.reading() as session:
        assert session.connection().exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    store.close()
    assert os.stat(tmp_path / "new" / "votes.db").st_mode & 0o077 == 0


def test_a_second_store_in_the_process_takes_no_votes_of_the_first_along(tmp_path: Path) -> None:
    """Closing a file beside SQLite takes the process's locks on it away. Then a reader from elsewhere, when it leaves,
    believes to be the last one and deletes the log that the first store goes on writing to."""
    path = tmp_path / "votes.db"

    def votes_seen_from_elsewhere() -> str:
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
            "print(*c.execute('SELECT count(*) FROM votes')); c.close()"
        )
        return subprocess.check_output([sys.executable, "-c", code, str(path)], text=True).strip()

    first, second = open_store(str(path)), open_store(str(path))
    assert votes_seen_from_elsewhere() == "(0,)"
    fill(first, [("m", "n", "a")])
    assert votes_seen_from_elsewhere() == "(1,)"
    second.close()
    first.close()
