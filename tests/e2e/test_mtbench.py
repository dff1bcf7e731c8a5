"""`mesh mtbench` as a person runs it, on a mesh with two scripted models and a scripted judge."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import sync_playwright

import benchmarks.mt_bench
from tests.e2e.webui_site import Site
from tests.harness import Mesh, Process

JUDGE = Path(benchmarks.mt_bench.__file__).parent / "sets" / "mesh-mini" / "scripted_judge.txt"
MODELS = ("--model", "small", "--model", "large")
# A whole run comes before the first test, and two web servers before another.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    paced = ("--engine", "scripted", "--script-step-ms", "2")
    with Mesh(tmp_path_factory.mktemp("mesh"), workers=0, worker_args=paced) as mesh:
        mesh.start_worker("--model-name", "small", "--script-tokens", "30", name="small")
        mesh.start_worker("--model-name", "large", "--script-tokens", "50", name="large")
        mesh.start_worker("--model-name", "judge", "--script-text", str(JUDGE), name="judge")
        for worker in mesh.workers:
            worker.wait_ready()
        mesh.wait_listed(3)
        yield mesh


def command(mesh: Mesh, folder: Path, *argv: str) -> list[str]:
    """A command's words, with the run in a folder."""
    where = ["--base-url", f"{mesh.gateway.url}/v1"] if argv[0] in ("answer", "judge") else []
    return ["-m", "mesh.cli", "mtbench", *argv, "--out", str(folder), *where]


def run(mesh: Mesh, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, *command(mesh, folder, *argv)], capture_output=True, text=True, timeout=45, check=False
    )


def content(folder: Path) -> dict[str, list[Any]]:
    """All lines of a run but for their times."""
    return {
        str(path.relative_to(folder)): [
            {name: value for name, value in json.loads(line).items() if name != "tstamp"}
            for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.rglob("*.jsonl"))
    }


@pytest.fixture(scope="module")
def undisturbed(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for argv in (("answer", *MODELS), ("judge", "--judge", "judge"), ("judge", "--judge", "judge", *ALL)):
        done = run(mesh, folder, *argv)
        assert done.returncode == 0, done
    return folder


ALL = ("--mode", "pairwise-all")


def killed(mesh: Mesh, folder: Path, file: str, after: int, *argv: str) -> None:
    """Start a command, and kill it once the file has so many lines."""
    path = folder / file

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    before = lines()
    # One at a time, so that there is a middle.
    with Process(folder, "killed", command(mesh, folder, *argv, "--concurrency", "1")) as process:
        process.wait(lambda: lines() >= before + after)
        process.kill()


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_gives_the_same_files(
    mesh: Mesh, undisturbed: Path, tmp_path: Path
) -> None:
    answers, singles, pairs = (
        "model_answer/small.jsonl",
        "model_judgment/judge_single.jsonl",
        "model_judgment/judge_pair.jsonl",
    )
    killed(mesh, tmp_path, answers, 3, "answer", *MODELS)
    killed(mesh, tmp_path, answers, 3, "answer", *MODELS)
    # What a kill in the middle of a write leaves behind.
    with (tmp_path / answers).open("ab") as file:
        file.write(b'{"question_id": 16, "answ')
    assert run(mesh, tmp_path, "answer", *MODELS).returncode == 0
    killed(mesh, tmp_path, singles, 10, "judge", "--judge", "judge")
    assert run(mesh, tmp_path, "judge", "--judge", "judge").returncode == 0
    killed(mesh, tmp_path, pairs, 5, "judge", "--judge", "judge", *ALL)
    assert run(mesh, tmp_path, "judge", "--judge", "judge", *ALL).returncode == 0
    found, expected = content(tmp_path), content(undisturbed)
    assert found.keys() == expected.keys()
    assert {name: len(lines) for name, lines in expected.items()} == {
        "model_answer/large.jsonl": 16,
        answers: 16,
        singles: 64,
        pairs: 32,
    }
    assert found == expected


def test_nothing_is_asked_twice(mesh: Mesh, undisturbed: Path) -> None:
    before = mesh.worker("judge").stats().streams_started
    assert run(mesh, undisturbed, "judge", "--judge", "judge").returncode == 0
    assert mesh.worker("judge").stats().streams_started == before


def test_a_dry_run_asks_nothing_and_tells_the_cost(mesh: Mesh, undisturbed: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text('{"judge": {"input": 1000, "output": 0}}')
    (tmp_path / "model_answer").symlink_to(undisturbed / "model_answer")
    before = mesh.worker("judge").stats().streams_started
    done = run(mesh, tmp_path, "judge", "--judge", "judge", "--dry-run", "--prices", str(prices))
    assert done.returncode == 0, done
    row = next(line for line in done.stdout.splitlines() if line.startswith("│ judge"))
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[1:5] == ["64", "0", "0", "64"]
    tokens = int(cells[5].replace(",", ""))
    assert float(cells[7]) == pytest.approx(tokens / 1000)
    assert mesh.worker("judge").stats().streams_started == before


def test_results_are_shown_in_four_forms(mesh: Mesh, undisturbed: Path) -> None:
    shown = {form: run(mesh, undisturbed, "show", "--format", form) for form in ("table", "markdown", "csv", "json")}
    assert {done.returncode for done in shown.values()} == {0}, shown
    data = json.loads(shown["json"].stdout)
    graded = {row["model"]: row["overall"] for row in data["grades"][0]["models"]}
    lines = content(undisturbed)["model_judgment/judge_single.jsonl"]
    for model, found in graded.items():
        scores = [line["score"] for line in lines if line["model"] == model]
        assert found["value"] == pytest.approx(sum(scores) / len(scores))
        assert found["n"] == 32
        assert f"{found['value']:.2f}" in shown["table"].stdout
        assert f"{found['value']:.2f}" in shown["markdown"].stdout
        assert f"judge,{model},,score,,,{found['value']!r}," in shown["csv"].stdout


def test_a_page_alone_and_in_the_arena_shows_answers_side_by_side_and_what_the_judge_said(
    mesh: Mesh, undisturbed: Path, tmp_path: Path
) -> None:
    lines = content(undisturbed)
    answer = next(line for line in lines["model_answer/large.jsonl"] if line["question_id"] == 9)["choices"][0][
        "turns"
    ][1]
    games = next(
        line for line in lines["model_judgment/judge_pair.jsonl"] if (line["question_id"], line["turn"]) == (9, 2)
    )
    argv = command(mesh, undisturbed, "browse", "--port", "0")
    arena = Site(tmp_path, mesh.gateway.url, "--benchmark", str(undisturbed))
    with arena, Process(tmp_path, "browse", argv) as process, sync_playwright() as playwright:
        alone = process.wait(lambda: re.search(r"http://\S+", process.output), 60)[0]
        process.wait(lambda: listens(alone), 60)
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for url in (alone, f"{arena.wait_ready().url}/benchmark"):
            page = chromium.new_page()
            page.goto(url)
            page.locator("#mtbench-category input").click()
            page.get_by_role("option", name="coding").click()
            page.get_by_text(answer, exact=False).wait_for()
            assert not page.get_by_text("def runs(text):").is_visible()  # a reference is not open at first
            page.get_by_text(f"judge, A is {games['model_1']}, B is {games['model_2']}").last.click()
            page.get_by_text(games["g1_judgment"].splitlines()[0]).last.wait_for()
        chromium.close()
        process.interrupt()
        assert process.wait_exit() == 0


def listens(url: str) -> bool:
    """Whether anybody answers there."""
    try:
        return httpx.get(url, timeout=5).status_code > 0
    except httpx.TransportError:
        return False


def test_a_model_that_is_not_there_is_a_failure_with_its_reason(mesh: Mesh, tmp_path: Path) -> None:
    done = run(mesh, tmp_path, "answer", "--model", "nobody", "--first-n", "2")
    assert done.returncode == 1
    assert re.search(r"2/2 .* 2 failed\nfailed: nobody, question [12] and 1 more: turn 1: HTTP 404: ", done.stderr)
    assert not (tmp_path / "model_answer").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("answr",), "unknown command 'answr'; did you mean answer?"),
        (("answer",), "--model is required"),
        (("judge", "--judge", "j", "--mode", "pairwise-baseline"), "--mode pairwise-baseline needs --baseline"),
        (("judge", "--judge", "j", "--baseline", "b"), "--baseline has no effect with --mode single"),
        (("judge", "--judge", "j"), "holds no answers; mesh mtbench answer makes them"),
        (("answer", "--model", "m", "--out", "/dev/null/run"), "/dev/null/run: Not a directory"),
        (("show",), "holds no judgments that are asked for"),
        (("agreement", "nothing.json", "--judges", "human", "--judges", "human"), "nothing.json: No such file"),
        (("answer", "--model", "m", "--max-tokens", "0"), "--max-tokens must be at least 1, not 0"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, argv: tuple[str, ...], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "mtbench", *argv],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done
    assert words in done.stderr.strip()
    assert len(done.stderr.strip().splitlines()) == 1
