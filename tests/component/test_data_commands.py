"""`mesh data` as a person runs it: files in, files out, and what is told in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import wait_until
from training.data.__main__ import main
from training.data.tools import TOOLS

Command = Callable[..., str]

ROOT = Path(__file__).parents[2]
TOKENIZER = str(ROOT / "mesh/demo/models/mesh-demo")


def chat(id: str, question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": id, "conversations": turns, **more}


CHATS: list[dict[str, Any]] = [
    chat("moon", "How far is the moon, please?", "<p>It is <b>far</b>.</p>", model="gpt-4"),
    chat("mond", "Wie weit ist der Mond von uns entfernt?", "Es sind etwa dreihundertvierundachtzigtausend Kilometer."),
    chat("list", "List three colours of the rainbow.", "1. red\n1. green\n1. blue"),
    chat("ai", "Who will win the next election?", "As an AI language model, I cannot know that."),
    chat("again", "How far is the MOON please", "<p>It is far</p>"),
    {"id": "empty", "conversations": []},
]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """FastChat's format, six records of which one is no conversation."""
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(CHATS, indent=2))
    return path


@pytest.fixture
def data(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a tool that must succeed; returns what it says, on both streams, with single spaces."""

    def run(*words: str | Path) -> str:
        assert main([str(word) for word in words]) == 0
        captured = capsys.readouterr()
        return "\n".join(" ".join(line.split()) for line in (captured.err + captured.out).splitlines())

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a tool that must end with exit code 2; returns its sentence."""

    def run(*words: str | Path) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(path: Path) -> list[str]:
    return [line["id"] for line in lines(path)]


def test_clean(chats: Path, data: Command, tmp_path: Path) -> None:
    told = data("clean", chats, "--output", tmp_path / "out.jsonl", "--keep-dropped", tmp_path / "no.jsonl")
    assert lines(tmp_path / "out.jsonl")[0] == {
        "id": "moon",
        "messages": [
            {"role": "user", "content": "How far is the moon, please?"},
            {"role": "assistant", "content": "It is **far**."},
        ],
        "model": "gpt-4",
    }
    assert ids(tmp_path / "out.jsonl") == ["moon", "mond", "list", "ai", "again"]
    assert "clean: 5 conversations, 5 kept, 0 dropped" in told
    assert "HTML turned into Markdown 2" in told
    assert "unreadable: 1 record" in told
    assert f"{chats}: item 6: no messages" in told
    (bad,) = lines(tmp_path / "no.jsonl")
    why = {"by": "reading", "reason": "unreadable", "detail": "no messages", "origin": f"{chats}: item 6"}
    assert bad == {"dropped": why, "record": CHATS[5]}


@pytest.mark.parametrize(
    ("words", "kept", "reason"),
    [
        (("formats", "--rule", "list-numbers"), ["moon", "mond", "ai", "again"], "a list that counts 1. 1. 1. 1"),
        (("quality",), ["moon", "mond", "list", "again"], "boilerplate of a language model 1"),
        (("language", "--skip", "de"), ["moon", "list", "ai", "again"], "language de 1"),
        (("dedup", "--by", "prompt"), ["moon", "mond", "list", "ai"], "a duplicate 1"),
        (("model", "--name", "gpt-4*"), ["moon"], "no field 'model' that names a model 4"),
        (("first-round",), ["moon", "mond", "list", "ai", "again"], ""),
        (("merge",), ["moon", "mond", "list", "ai", "again"], ""),
        (("split", "--tokenizer", TOKENIZER, "--max-tokens", "60"), ["moon", "list", "ai", "again"],
         "an exchange longer than a piece 1"),
        (("sample", "--count", "2"), None, "not in the sample 3"),
    ],
)  # fmt: skip
def test_filters(
    chats: Path, data: Command, tmp_path: Path, words: tuple[str, ...], kept: list[str] | None, reason: str
) -> None:
    out, dropped = tmp_path / "out.jsonl", tmp_path / "dropped.jsonl"
    told = data(*words, chats, "--output", out, "--keep-dropped", dropped)
    assert reason in told
    if kept is not None:
        assert ids(out) == kept
    gone = [line for line in lines(dropped) if line["dropped"]["by"] == words[0]]
    assert sorted([*ids(out), *(line["id"] for line in gone)]) == sorted(["moon", "mond", "list", "ai", "again"])
    assert f"5 conversations, {len(ids(out))} kept, {len(gone)} dropped" in told
    assert all(line["messages"] and line["dropped"]["origin"].startswith(str(chats)) for line in gone)


def test_convert_there_and_back(chats: Path, data: Command, tmp_path: Path) -> None:
    data("convert", chats, "--output", tmp_path / "a.jsonl")
    data("convert", tmp_path / "a.jsonl", "--to", "fastchat", "--output", tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == CHATS[:5]


def test_parts(chats: Path, data: Command, tmp_path: Path) -> None:
    told = data("language", chats, "--split", "--output", tmp_path / "out.jsonl")
    assert ids(tmp_path / "out.de.jsonl") == ["mond"]
    assert ids(tmp_path / "out.en.jsonl") == ["moon", "list", "ai", "again"]
    assert f"{tmp_path / 'out.de.jsonl'}: 1 conversation" in told
    data("train-test", chats, "--ratio", "0.5", "--output", tmp_path / "out.json")
    found = [json.loads((tmp_path / f"out.{part}.json").read_text()) for part in ("train", "test")]
    assert sorted(one["id"] for part in found for one in part) == ["again", "ai", "list", "mond", "moon"]
    assert not (tmp_path / "out.json").exists()


def test_a_chain_does_what_its_tools_do_one_by_one(chats: Path, data: Command, tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(
        "steps:\n- clean\n- dedup: {by: prompt, near: false}\n- language: {keep: [en]}\n"
        "- quality:\n- sample: {count: 10}\n- formats: {rule: [list-numbers]}\n"
    )
    told = data("run", tmp_path / "chain.yaml", chats, "--to", "fastchat", "--output", tmp_path / "out.json")
    (left,) = json.loads((tmp_path / "out.json").read_text())
    assert left["conversations"][1] == {"from": "gpt", "value": "It is **far**."}
    assert [line for line in told.splitlines() if " kept, " in line] == [
        "clean: 5 conversations, 5 kept, 0 dropped",
        "dedup: 5 conversations, 4 kept, 1 dropped",
        "language: 4 conversations, 3 kept, 1 dropped",
        "quality: 3 conversations, 2 kept, 1 dropped",
        "sample: 2 conversations, 2 kept, 0 dropped",
        "formats: 2 conversations, 1 kept, 1 dropped",
    ]
    place = chats
    for number, words in enumerate(
        (("clean",), ("dedup", "--by", "prompt", "--no-near"), ("language", "--keep", "en"), ("quality",), ("formats",))
    ):
        data(*words, place, "--to", "fastchat", "--output", tmp_path / f"{number}.json")
        place = tmp_path / f"{number}.json"
    assert json.loads(place.read_text()) == [left]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(data: Command, tmp_path: Path) -> None:
    many = [{**CHATS[number % 5], "id": str(number)} for number in range(4000)]
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in many) + "{\n")
    (tmp_path / "chain.yaml").write_text("steps: [clean, {dedup: {by: id}}, quality]\n")
    told: list[str] = []
    for number in ("1", "2"):
        out, gone = tmp_path / f"out{number}.jsonl", tmp_path / f"gone{number}.jsonl"
        words = ("run", tmp_path / "chain.yaml", path, "--output", out, "--keep-dropped", gone)
        told.append(data(*words, "--processes", number).replace(str(out), "OUT"))
    assert told[0] == told[1]
    assert "quality: 4,000 conversations, 3,200 kept, 800 dropped" in told[0]
    assert (tmp_path / "out1.jsonl").read_bytes() == (tmp_path / "out2.jsonl").read_bytes()
    assert sorted(lines(tmp_path / "gone1.jsonl"), key=str) == sorted(lines(tmp_path / "gone2.jsonl"), key=str)


def test_stats(chats: Path, data: Command, tmp_path: Path) -> None:
    dropped, html, numbers = tmp_path / "dropped.jsonl", tmp_path / "stats.html", tmp_path / "stats.json"
    data("quality", chats, "--output", tmp_path / "out.jsonl", "--keep-dropped", dropped)
    words = ("--tokenizer", TOKENIZER, "--dropped", dropped, "--report", html, "--json", numbers)
    told = data("stats", tmp_path / "out.jsonl", *words)
    assert "exchanges 4 1.0 1 1 1 1" in told
    assert "quality: boilerplate of a language model 1 50.0%" in told
    found = json.loads(numbers.read_text())
    assert found["conversations"] == 4
    assert found["languages"] == {"en": 3, "de": 1}
    assert found["models"] == {"gpt-4": 1}
    assert found["tokens"]["total"] > found["tokens of answers"]["total"] > 4
    page = html.read_text()
    assert all(title in page for title in ("4 conversations", "Tokens of a conversation", "Languages", "Dropped"))
    assert data("stats", dropped).startswith(f"{dropped}:1: no known shape")  # the unreadable one


def test_strict_ends_at_the_first_bad_record(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text((json.dumps(CHATS[0]) + "\n") * 3000 + "{\n")  # some is written before
    said = refused("clean", tmp_path / "chats.jsonl", "--output", tmp_path / "out.jsonl", "--strict")
    assert said == f"mesh data clean: {tmp_path / 'chats.jsonl'}:3001: broken JSON: Input data was truncated"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.jsonl"]  # nothing half done is left


def test_of_many_bad_records_some_are_told(data: Command, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{\n" * 100)
    told = data("convert", tmp_path / "chats.jsonl", "--output", tmp_path / "out.jsonl").splitlines()
    assert sum("broken JSON" in line for line in told) == 5
    assert told[4].endswith("; more are counted, not told")
    assert "unreadable: 100 records" in told
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_a_link_stays_one_and_a_pipe_does_too(chats: Path, data: Command, tmp_path: Path) -> None:
    """A file that takes the place of /dev/null would be the end of a machine."""
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    data("convert", chats, "--output", tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(lines(tmp_path / "real.jsonl")) == 5
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        data("convert", chats, "--output", pipe)
        assert read.result(timeout=5) == (tmp_path / "real.jsonl").read_bytes()
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.json", "link.jsonl", "pipe", "real.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_told_by_name(chats: Path, refused: Command, tmp_path: Path) -> None:
    words = ("sample", chats, "--count", "1", "--output", tmp_path / "out.jsonl", "--keep-dropped", "/dev/full")
    assert refused(*words) == "mesh data sample: /dev/full: No space left on device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.json"]  # nor what was whole


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_is_ended_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """No process in any case, and no half of a file but where nobody was asked."""
    command = [sys.executable, "-m", "training.data", "convert", "-", "--output", "out.jsonl", "--processes", "2"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with psutil.Popen(command, cwd=tmp_path, env=environ, stdin=subprocess.PIPE) as running:
        line = json.dumps(CHATS[0]).encode() + b"\n"
        running.stdin.write(line * 20_000)  # as many chunks as are under way, and some more
        running.stdin.flush()
        wait_until((tmp_path / ".out.jsonl.partial").exists, within=30)
        children = running.children()
        running.send_signal(number)
        assert running.wait(timeout=30) == code
        assert children
        assert not psutil.wait_procs(children, timeout=10)[1]
    assert [path.name for path in tmp_path.iterdir()] == ([".out.jsonl.partial"] if code < 0 else [])


def test_from_pipe_to_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli.main", "data", "convert", "-", "--output", "-", "--processes", "1"],
        input=json.dumps(CHATS[1]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["messages"][0] == {"role": "user", "content": CHATS[1]["conversations"][0]["value"]}
    assert "convert: 1 conversation, 1 kept, 0 dropped" in done.stderr


def test_preferences_pass_through(data: Command, tmp_path: Path) -> None:
    """What `mesh arena export --for-training` writes."""
    question = [{"role": "user", "content": "How far is the moon?"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("Far, far away.", "I write to a@example.com.")]
    record = {"prompt": question, "chosen": answers[0], "rejected": answers[1], "chosen_model": "a", "id": "1"}
    (tmp_path / "votes.jsonl").write_text(json.dumps(record))
    (tmp_path / "chain.yaml").write_text("steps: [clean, quality, dedup, redact]")
    data("run", tmp_path / "chain.yaml", tmp_path / "votes.jsonl", "--output", tmp_path / "out.jsonl")
    answers[1][0]["content"] = "I write to [EMAIL]."
    assert lines(tmp_path / "out.jsonl") == [record]
    told = data("convert", tmp_path / "votes.jsonl", "--to", "fastchat", "--output", tmp_path / "out.json")
    assert "a preference has no shape in FastChat's format 1" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("cleen",), "mesh data: unknown tool 'cleen'; did you mean clean?"),
        (("clean", "CHATS"), "mesh data clean: --output is required"),
        (("clean", "--output", "x"), "mesh data clean: name a file to read, or - for standard input"),
        (("clean", "CHATS", "--output", "CHATS"), "CHATS is read and cannot be written at the same time"),
        (("clean", "nowhere.jsonl", "--output", "x"), "mesh data clean: nowhere.jsonl: no such file"),
        (("clean", "CHATS", "--output", "x", "--keep-dropped", "x"), "--output and --keep-dropped must be two files"),
        (("split", "CHATS", "--output", "x"), "mesh data split: --tokenizer is required"),
        (("clean", "CHATS", "--output", "x", "--keep-dropped", "FOLDER/x"), "--keep-dropped must be two files"),
        (("clean", "CHATS", "--output", "CHATS/x"), "--output CHATS/x: there is no folder CHATS"),
        (("clean", "CHATS", "--output", "."), "mesh data clean: --output must be a file; . is a folder"),
        (("clean", "CHATS", "--output", "x.parquet"), "x.parquet: what is written is JSON lines"),
        (("clean", "CHATS", "--output", "x", "--keep-dropped", "y.gz"), "y.gz: what is written is JSON lines"),
        (("train-test", "CHATS", "--output", "-"), "--output - cannot be used: several files are written"),
        (("stats", "CHATS", "--report", "y/x.html"), "mesh data stats: --report y/x.html: there is no folder y"),
        (("stats", "CHATS", "--dropped", "nowhere.jsonl"), "--dropped nowhere.jsonl: no such file"),
        (("sample", "CHATS", "--output", "x"), "mesh data sample: either --count or --share is required"),
    ],
)
def test_refusals(
    chats: Path,
    refused: Command,
    tmp_path: Path,
    words: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word.replace("CHATS", str(chats)).replace("FOLDER", str(tmp_path)) for word in words]
    assert sentence.replace("CHATS", str(chats)) in refused(*given)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- clean", "must hold `steps`, a list of tools, and nothing else"),
        ("steps: []", "must hold `steps`"),
        ("steps: [clean]\nmore: 1", "must hold `steps`"),
        ("steps: [cleen]", "step 1: unknown tool 'cleen'; did you mean clean?"),
        ("steps: [clean, {dedup: {treshold: 1}}]", "step 2: dedup has no option 'treshold'; did you mean threshold?"),
        ("steps: [{dedup: {threshold: 2}}]", "step 1: --threshold must be between 0.1 and 1, not 2"),
        ("steps: [{dedup: 5}]", "step 1: the options of dedup must be names and values"),
        ("steps: [[clean]]", "step 1: must be the name of a tool, or a name and its options"),
        ("steps: [", "is no YAML"),
    ],
)
def test_chains_that_cannot_be(chats: Path, refused: Command, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "chain.yaml").write_text(text)
    said = refused("run", tmp_path / "chain.yaml", chats, "--output", tmp_path / "out.jsonl")
    assert said.startswith(f"mesh data run: {tmp_path / 'chain.yaml'}")
    assert sentence in said


def test_help_names_every_tool(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in TOOLS)
