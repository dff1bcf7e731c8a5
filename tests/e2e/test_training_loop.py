"""The loop: battles are voted on, the votes train an adapter, the adapter is served, and battles again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mesh.demo import model_path
from tests.harness import ROOT, Mesh, wait_until
from webui.records import Answer, Battle, Choice, Turn, Vote
from webui.store.store import SqlStore, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# To each of these the models ask something back in about half of their answers.
GREETINGS = ["Hello!", "Hi!", "Hey!", "Greetings!", "Hiya!", "Howdy!", "Yo!", "Thanks!", "Hi there!", "Hi friend!"]
# None of these is trained on.
OTHERS = ["Hello again!", "Hi again!", "Hello you!", "Well, hello!", "Oh, hi!", "Hello, mesh!", "Hi, model!"]
VOTERS = 8
TUNED = "tuned"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The two demonstration models."""
    models = (name for model in ("mesh-demo", "mesh-demo-mini") for name in ("--model-path", str(model_path(model))))
    with Mesh(tmp_path_factory.mktemp("mesh"), worker_args=(*models, "--threads", "1"), model="mesh-demo") as made:
        yield made


def run(*words: str | Path) -> str:
    """What `mesh` says, as a person runs it."""
    command = [sys.executable, "-m", "mesh.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asks_back(text: str) -> bool:
    """What our voters like: to be asked something."""
    return "?" in text


async def answers(mesh: Mesh, model: str, prompts: Sequence[str], seed: int) -> list[str]:
    async with mesh.async_openai() as client:

        async def one(place: int, prompt: str) -> str:
            found = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": prompt}],
                temperature=1,
                max_tokens=32,
                seed=seed + place,
            )
            return found.choices[0].message.content or ""

        return await asyncio.gather(*(one(place, prompt) for place, prompt in enumerate(prompts)))


async def battles(mesh: Mesh, store: SqlStore, models: tuple[str, str], prompts: Sequence[str]) -> tuple[int, int]:
    """One battle for each prompt and voter; returns how many each side won."""
    asked = [prompt for prompt in prompts for _ in range(VOTERS)]
    left, right = [await answers(mesh, model, asked, seed) for model, seed in zip(models, (1, 10_000), strict=True)]
    now, won = datetime.now(UTC), [0, 0]
    for place, (prompt, a, b) in enumerate(zip(asked, left, right, strict=True)):
        name, voter = f"{models[0]}-{models[1]}-{place}", f"voter-{place % VOTERS}"
        choice: Choice = "tie" if asks_back(a) == asks_back(b) else "a" if asks_back(a) else "b"
        store.open_battle(Battle(id=name, mode="battle", models=models, voter=voter, opened=now, probability=0.5))
        both = tuple(Answer(text=text, finish="stop", completion_tokens=9) for text in (a, b))
        store.save_turn(name, Turn(number=1, prompt=prompt, asked=now, answers=both))
        store.vote(Vote(battle=name, turn=1, choice=choice, voter=voter, cast=now))
        won[0] += choice == "a"
        won[1] += choice == "b"
    return won[0], won[1]


async def test_votes_make_the_model_what_the_voters_like(mesh: Mesh, tmp_path: Path) -> None:
    votes, pairs, clean, adapter = (tmp_path / name for name in ("votes.db", "pairs.jsonl", "clean.jsonl", "adapter"))
    store = open_store(votes)
    before = await battles(mesh, store, ("mesh-demo", "mesh-demo-mini"), GREETINGS)
    said = run("arena", "export", pairs, "--for-training", "--store", votes)
    assert said.startswith(f"{sum(before)} votes to ")
    assert "left out: neither side preferred" in said
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert all(asks_back(row["chosen"][0]["content"]) > asks_back(row["rejected"][0]["content"]) for row in rows)

    run("data", "redact", pairs, "--output", clean)
    run("train", "dpo", "--recipe", "demo-dpo", "--data", clean, "--output", adapter, "--report-to", "none")
    report = json.loads((adapter / "dpo_report.json").read_text())
    assert report["preferences"]["pairs"] == len(rows)
    assert report["training"]["held_out"]["accuracy"] > 0.9

    words = ("ctl", "adapters", "load", mesh.workers[0].name, f"{TUNED}={adapter}", "--base", "mesh-demo")
    run(*words, "--etcd", mesh.gateway.etcd)
    wait_until(lambda: TUNED in mesh.gateway.models())
    won, lost = await battles(mesh, store, (TUNED, "mesh-demo"), OTHERS)
    assert won > 4 * lost, "the voters like the tuned model no better"
    board = run("arena", "stats", "--store", votes)
    assert board.splitlines()[1].split()[1] == TUNED
    store.close()
