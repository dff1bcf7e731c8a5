"""FastChat's own show_result on our files, ours on files as FastChat writes them, and agreement: the same numbers.

`make test-fastchat` installs fschat 0.2.36 into an environment of its own.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mt_bench.agreement import agreements, read_votes
from benchmarks.mt_bench.question_set import QuestionSet, load
from benchmarks.mt_bench.records import Mode
from benchmarks.mt_bench.results import collect
from tests.component.fake_provider import Reply, Seen
from tests.component.mtbench_rig import answer, judge, last, provider, said

PYTHON = Path(__file__).resolve().parents[2] / ".venv-judge" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="make test-fastchat installs it")
# More digits than pandas prints by itself.
PROGRAM = """
import runpy, sys
import pandas
pandas.set_option("display.precision", 12, "display.width", 500)
sys.argv = ["show_result", *sys.argv[1:]]
runpy.run_module("fastchat.llm_judge.show_result", run_name="__main__")
"""
MODELS = ("m1", "m2", "m3", "m4")
Numbers = dict[str, list[float]]


def theirs(*argv: str) -> dict[str, Numbers]:
    """What show_result prints: numbers by section and model. The section of a single table is empty."""
    done = subprocess.run(
        [str(PYTHON), "-c", PROGRAM, *argv], capture_output=True, text=True, timeout=50, check=True, cwd=PYTHON.parent
    )
    sections: dict[str, Numbers] = {"": {}}
    name = ""
    for line in done.stdout.splitlines():
        if line.startswith("#"):
            name = line.strip("# ")
            sections[name] = {}
        elif line.split() and line.split()[0] in MODELS:
            model, *numbers = line.split()
            sections[name][model] = [float(number) for number in numbers]
    return sections


def same_scores(folder: Path, questions: QuestionSet, file: Path) -> None:
    """All means of show_result's single mode are ours."""
    printed = theirs("--input-file", str(file))
    (grades,) = collect(folder, questions, mode="single").grades
    assert len(grades.models) == len(printed["Average"]) > 1
    for row in grades.models:
        assert row.overall.value == pytest.approx(printed["Average"][row.model][0])
        assert row.turns[1].value == pytest.approx(printed["First turn"][row.model][-1])
        assert row.turns[2].value == pytest.approx(printed["Second turn"][row.model][-1])


def same_rates(folder: Path, questions: QuestionSet, file: Path, baseline: str | None) -> None:
    """All numbers of its pairwise modes are ours."""
    mode: Mode = "pairwise-all" if baseline is None else "pairwise-baseline"
    rest = [] if baseline is None else ["--baseline-model", baseline]
    printed = theirs("--input-file", str(file), "--mode", mode, *rest)[""]
    (duels,) = collect(folder, questions, mode=mode, baseline=baseline).duels
    assert {row.model for row in duels.models} == printed.keys()
    for row in duels.models:
        mine = row.record
        numbers = [mine.wins, mine.losses, mine.ties, mine.win_rate, mine.loss_rate, mine.adjusted.value]
        assert numbers == pytest.approx(printed[row.model])


async def test_fastchat_reads_our_files(tmp_path: Path) -> None:
    """Grades and comparisons made up by a judge, some of whose verdicts cannot be read."""
    questions = load("mesh-mini", tmp_path).first(8)

    def answers(seen: Seen) -> Reply:
        return said(f"{seen.body['model']} on {last(seen)[:20]}")

    def verdicts(seen: Seen) -> Reply:
        draw = random.Random(last(seen))
        pair = "answer_of_A" in last(seen) or "with_A" in last(seen)
        kinds = ["[[A]]", "[[B]]", "[[C]]", "Hm"] if pair else ["[[3]]", "[[7.5]]", "[[10]]", "[[11]]"]
        return said(draw.choice(kinds))

    async with provider(answers) as fake:
        await answer(questions, tmp_path, fake, models=MODELS[:3])
    async with provider(verdicts) as fake:
        await judge(questions, tmp_path, fake)
        await judge(questions, tmp_path, fake, mode="pairwise-all")
    judged = tmp_path / "model_judgment"
    same_scores(tmp_path, questions, judged / "j_single.jsonl")
    same_rates(tmp_path, questions, judged / "j_pair.jsonl", None)
    same_rates(tmp_path, questions, judged / "j_pair.jsonl", "m2")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """As FastChat's play_a_match_… write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_we_read_files_as_fastchat_writes_them(tmp_path: Path) -> None:
    draw = random.Random(7)
    questions = load("mesh-mini", tmp_path)
    turns = [(question, turn) for question in range(81, 161) for turn in (1, 2)]
    singles = [
        {
            "question_id": question,
            "model": model,
            "judge": ["gpt-4", "single-v1"],
            "user_prompt": "",
            "judgment": "",
            "score": draw.choice([-1, 1, 2.5, 7, 10]),
            "turn": turn,
            "tstamp": 1687222900.5,
        }
        for question, turn in turns
        for model in MODELS
    ]
    write(tmp_path / "model_judgment" / "gpt-4_single.jsonl", singles)
    same_scores(tmp_path, questions, tmp_path / "model_judgment" / "gpt-4_single.jsonl")
    winners = ["model_1", "model_2", "tie", "error"]
    pairs = [
        {
            "question_id": question,
            "model_1": first,
            "model_2": second,
            "g1_winner": draw.choice(winners),
            "g2_winner": draw.choice(winners),
            "judge": ["gpt-4", "pair-v2"],
            **{f"g{game}_{name}": "" for game in (1, 2) for name in ("user_prompt", "judgment")},
            "turn": turn,
            "tstamp": 1687222900.5,
        }
        for question, turn in turns
        for first, second in (("m1", "m2"), ("m3", "m1"), ("m2", "m4"))
    ]
    write(tmp_path / "model_judgment" / "gpt-4_pair.jsonl", pairs)
    for baseline in (None, "m1", "m2"):
        same_rates(tmp_path, questions, tmp_path / "model_judgment" / "gpt-4_pair.jsonl", baseline)


def test_agreement_is_that_of_fastchats_program(tmp_path: Path) -> None:
    """Votes of three people, an author and a judge, with ties of all kinds and models in both orders."""
    draw = random.Random(11)
    winners = ["model_a", "model_b", "tie", "tie (inconsistent)"]
    voters: list[Any] = ["expert_0", "expert_1", "expert_2", "author_0"]
    people = [
        {"question_id": question, "model_a": first, "model_b": second, "winner": draw.choice(winners), "turn": turn}
        | {"judge": voter}
        for question in range(81, 121)
        for turn in (1, 2)
        for voter in voters
        for first, second in [draw.sample(MODELS, 2)]
    ]
    judged = [
        {"question_id": question, "model_a": first, "model_b": second, "winner": draw.choice(winners), "turn": turn}
        | {"judge": ["gpt-4", "pair-v2"]}
        for question in range(81, 121)
        for turn in (1, 2)
        for first, second in itertools.combinations(MODELS, 2)
    ]
    files = [tmp_path / "human.json", tmp_path / "gpt4.json"]
    for path, votes in zip(files, (people, judged), strict=True):
        path.write_text(json.dumps(votes))
    votes = [vote for path in files for vote in read_votes(path)]
    for first, second in (("gpt4-pair", "human"), ("human", "human")):
        argv = [
            "-m",
            "fastchat.llm_judge.compute_agreement",
            "--judges",
            first,
            second,
            "--votefiles",
            *map(str, files),
        ]
        done = subprocess.run([str(PYTHON), *argv], capture_output=True, text=True, timeout=50, check=True)
        printed = [
            (int(turn), setup == "with", int(agree), int(total))
            for turn, setup, total, agree in re.findall(
                r"turn (\d) (with|without) tie. #total: (\d+), #agree: (\d+)", done.stdout
            )
        ]
        assert len(printed) == 4
        assert [(e.turn, e.ties, e.agree, e.total) for e in agreements(votes, first, second)] == printed
