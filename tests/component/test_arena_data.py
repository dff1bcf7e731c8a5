"""`mesh arena`: votes out, in, counted, reported; the commands as a person runs them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow.parquet
import pytest

from tests.component.arena_votes import START, battle, fill, turn, vote
from tests.harness import command
from webui.data import fastchat
from webui.data.__main__ import main
from webui.data.judge import NoLabel, read
from webui.records import Flag
from webui.store import archive
from webui.store.store import SqlStore, open_store
from webui.store.tallies import DISTINCT, SqlVotes


class Arena(Protocol):
    def __call__(self, *words: str, store: str = "votes.db", code: int = 0) -> str: ...


@pytest.fixture
def store(tmp_path: Path) -> Generator[SqlStore]:
    opened = open_store(tmp_path / "votes.db")
    fill(opened, [("red", "blue", "a"), ("blue", "red", "a"), ("red", "green", "tie"), ("green", "red", "both_bad")])
    opened.open_battle(battle("long"))
    opened.save_turn("long", turn())
    opened.save_turn("long", turn(2, prompt="And a wolf?", a="```\n# no header\n```", b="# Wolf\n- grey\n- **big**"))
    opened.vote(vote("long", "b", number=2))
    opened.open_battle(battle("leak"))
    opened.save_turn("leak", turn(), [Flag("identity", "a")])
    opened.vote(vote("leak"))
    yield opened
    opened.close()


@pytest.fixture
def arena(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Arena:
    """The command, on a store in this test's folder: what it says, on stderr if it fails as it should."""

    def run(*words: str, store: str = "votes.db", code: int = 0) -> str:
        try:
            found = main([*words, "--store", str(tmp_path / store)])
        except SystemExit as end:
            found = end.code
        said = capsys.readouterr()
        assert found == code, said.err
        return said.err if code == 2 else said.out

    return run


def test_the_command_by_its_name(store: SqlStore, tmp_path: Path) -> None:
    del store
    words = command("mesh.cli", "arena", "stats", "--store", str(tmp_path / "votes.db"))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 votes on 3 models" in done.stdout


@pytest.mark.parametrize("form", ["battles", "log"])
def test_what_goes_out_comes_in_as_the_same_votes(arena: Arena, store: SqlStore, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    assert "6 votes" in arena("export", str(out), "--format", form)
    assert "6 votes taken in, 0 were there" in arena("import", str(out), store="other.db")
    assert "0 votes taken in, 6 were there" in arena("import", str(out), store="other.db")
    other = open_store(tmp_path / "other.db")
    before, after = list(archive.ballots(store.database)), list(archive.ballots(other.database))
    for one, again in zip(before, after, strict=True):
        assert again.battle.models == one.battle.models
        assert again.vote.choice == one.vote.choice
        assert again.vote.cast == one.vote.cast
        assert [t.prompt for t in again.turns] == [t.prompt for t in one.turns]
        assert [a.text for t in again.turns for a in t.answers] == [a.text for t in one.turns for a in t.answers]
        assert (again.a, again.b, again.categories, again.language) == (one.a, one.b, one.categories, one.language)
        assert again.vote.voter != one.vote.voter  # a hash of another store
    assert sum(SqlVotes(other.database).tally().values()) == 6
    other.close()


def test_battles_are_as_rating_scripts_read_them(store: SqlStore) -> None:
    *_, long, _ = archive.ballots(store.database)
    row = fastchat.battle(long)
    assert (row["model_a"], row["model_b"], row["winner"], row["turn"], row["anony"]) == (
        *("red", "blue"),
        *("model_b", 2, True),
    )
    assert row["judge"] == "arena_user_v"
    assert [m["role"] for m in row["conversation_b"]] == ["user", "assistant"] * 2
    style = row["conv_metadata"]
    assert sum(style["header_count_b"].values()) == 1
    assert sum(style["list_count_b"].values()) == 2
    assert sum(style["bold_count_b"].values()) == 2
    line = fastchat.log_line(long)
    assert line["type"] == "rightvote"
    assert line["models"] == ["", ""]
    assert line["states"][1]["messages"][2] == ["user", "And a wolf?"]


def test_lines_of_its_logs_that_are_no_votes_are_told(arena: Arena, tmp_path: Path) -> None:
    state = {"model_name": "m", "conv_id": "1", "offset": 0, "messages": [["USER", "hi"], ["ASSISTANT", None]]}
    states = [state, {**state, "model_name": "n"}]
    good: dict[str, Any] = {"type": "tievote", "models": ["", ""], "states": states, "ip": "1.2.3.4"}
    good["tstamp"] = START.timestamp()
    lines: list[Any] = [
        good,
        {**good, "states": [{**state, "conv_id": "2", "messages": [["U", ["hi", ["image"]]], ["A", "x"]]}] * 2},
        {"type": "chat", "model": "m", "state": state},
        {"type": "leftvote", "states": None},
        [1],
    ]
    path = tmp_path / "2026-03-01-conv.json"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n\n")
    said = arena("import", str(path))
    assert "1 vote taken in" in said
    for reason in ("1 left out: not two models", "1 left out: no vote on a pair", "1 left out: not as FastChat"):
        assert reason in said
    assert "2 left out: no JSON object" in said
    store = open_store(tmp_path / "votes.db")
    (ballot,) = archive.ballots(store.database)
    assert ballot.turns[0].answers[0].text == ""
    assert b"1.2.3.4" not in (tmp_path / "votes.db").read_bytes()
    store.close()


def test_preferences_for_training(arena: Arena, store: SqlStore, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    fill(store, [("red", "blue", "a")], voter="robot", prefix="r")
    SqlVotes(store.database).exclude({"robot": "votes unlike all others'"})
    store.open_battle(battle("known", mode="named"))
    store.save_turn("known", turn(prompt="Known?"))
    store.vote(vote("known"))
    store.open_battle(battle("same"))
    store.save_turn("same", turn(prompt="Same?", a="Yes.", b="Yes."))
    store.vote(vote("same"))
    said = arena("export", str(out), "--for-training")
    assert "3 votes" in said
    for reason in (
        "2 left out: neither side preferred",
        "1 left out: the voter is left out of the ratings",
        "1 left out: the models' names were shown",
        "1 left out: both answered the same",
        "1 left out: an answer said which model it is",
    ):
        assert reason in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["chosen_model"], row["rejected_model"]) for row in rows] == [
        ("red", "blue"),
        ("blue", "red"),
        ("blue", "red"),
    ]
    assert rows[2]["prompt"] == [{"role": "user", "content": "What is a fox?"}]
    assert [m["role"] for m in rows[2]["rejected"]] == ["assistant", "user", "assistant"]
    assert rows[2]["rejected"][2]["content"].startswith("```")


def test_a_prompt_in_fashion_is_trained_on_so_often_and_no_more(arena: Arena, store: SqlStore, tmp_path: Path) -> None:
    for number in range(DISTINCT + 2):
        store.open_battle(battle(f"fox-{number}", voter=f"voter-{number}"))
        store.save_turn(f"fox-{number}", turn(prompt="A fashion?"))
        store.vote(vote(f"fox-{number}", voter=f"voter-{number}"))
    said = arena("export", str(tmp_path / "out"), "--for-training")
    assert f"{DISTINCT + 3} votes" in said
    assert f"2 left out: {DISTINCT} earlier votes had the same prompts" in said


def test_parquet(arena: Arena, store: SqlStore, tmp_path: Path) -> None:
    del store
    for texts in (False, True):
        arena("export", str(tmp_path / "out"), "--format", "parquet", *(["--texts"] if texts else []))
        rows = cast("list[dict[str, Any]]", pyarrow.parquet.read_table(tmp_path / "out").to_pylist())
        assert len(rows) == 6
        assert (rows[4]["turns"], rows[4]["headers_b"], rows[4]["categories"]) == (2, 1, ["code", "multi_turn"])
        assert rows[5]["marks"] == ["identity"]
        assert rows[4]["prompts"] == (["What is a fox?", "And a wolf?"] if texts else None)


def test_counts_and_the_report(arena: Arena, store: SqlStore, tmp_path: Path) -> None:
    del store
    said = arena("stats", "--anchor", "blue=1114")
    assert "5 votes on 3 models, 3 ranked" in said
    assert "1114" in said
    assert "marked: identity 1" in said
    out = tmp_path / "board.html"
    assert "5 votes" in arena("report", str(out))
    assert out.read_text().count("<section") >= 3
    assert "Online Elo" in out.read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_voters_who_stand_out_are_left_out_and_a_voter_is_forgotten(arena: Arena, tmp_path: Path) -> None:
    store = open_store(tmp_path / "votes.db")
    for voter in range(12):
        fill(store, [("red", "blue", "a")] * 10, voter=f"v{voter}", prefix=f"v{voter}")
    fill(store, [("red", "blue", "b")] * 10, voter="rebel", prefix="rebel")
    said = arena("audit", "--exclude")
    assert said.startswith("rebel")
    assert "1 of 13 voters" in said
    assert sum(SqlVotes(store.database).tally().values()) == 120
    assert "10 battles deleted" in arena("forget", "rebel")
    arena("forget", "rebel", code=1)
    store.close()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["exprot"], "did you mean export"),
        (["import", "/nowhere"], "cannot be read"),
        (["stats", "--anchor", "x"], "--anchor must be MODEL=SCORE, not 'x'"),
        (["stats", "--category", "x"], "--category must be one of overall"),
        (["export", "/nowhere/out"], "/nowhere/out"),
    ],
)
def test_bad_input_is_one_sentence(arena: Arena, store: SqlStore, words: list[str], why: str) -> None:
    del store
    said = arena(*words, code=2)
    assert why in said
    assert said.count("\n") == 1


def test_a_store_that_is_not_there_is_not_made(arena: Arena, tmp_path: Path) -> None:
    assert "no file" in arena("stats", store="nowhere.db", code=2)
    assert not (tmp_path / "nowhere.db").exists()


@pytest.mark.parametrize(("name", "head"), [("v.json", b"[\n{"), ("v.jsonl", b'{"tstamp"'), ("v.parquet", b"PAR1")])
def test_the_name_of_a_file_says_what_goes_into_it(
    arena: Arena, store: SqlStore, tmp_path: Path, name: str, head: bytes
) -> None:
    del store
    arena("export", str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(head)


def test_labels_of_a_judge(store: SqlStore) -> None:
    says = dict.fromkeys(("specific", "knowledge", "complex", "problem", "creative", "accurate"), True)
    says |= {"real": False, "math": True, "creative_writing": False, "instruction_following": False}
    holds = read(f"Well:\n```json\n{json.dumps(says)}\n```")
    assert holds == {
        "hard_prompt": True,
        "math": True,
        "creative_writing": False,
        "instruction_following": False,
    }
    assert not read(json.dumps(says | {"accurate": False}))["hard_prompt"]
    for bad in ("yes", "{}", '{"math": 1}', json.dumps(says | {"math": "true"})):
        with pytest.raises(NoLabel):
            read(bad)
    *_, long, _ = archive.ballots(store.database)
    archive.label(store.database, long.number, holds, "judge")
    archive.label(store.database, long.number, holds | {"math": False}, "judge")
    assert archive.labelled(store.database) == {long.number}
    *_, long, _ = archive.ballots(store.database)
    assert long.categories == {"code", "hard_prompt", "multi_turn"}


def test_a_vote_on_replaced_turns_is_exported_as_it_was(store: SqlStore) -> None:
    store.save_turn("long", replace(turn(), prompt="Edited after the vote"))
    *_, long, _ = archive.ballots(store.database)
    assert [t.prompt for t in long.turns] == ["What is a fox?", "And a wolf?"]
