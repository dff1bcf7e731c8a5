"""The HTML report: everything in one file, and nothing that a model wrote becomes part of the page."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import msgspec

from benchmarks.mt_bench.question_set import load
from benchmarks.mt_bench.records import Answer, Choice, Failure, Pair, Single, answer_path, failures_path, judgment_path
from benchmarks.mt_bench.report import page
from benchmarks.mt_bench.results import collect

EVIL = "</script><script>alert(1)</script><!-- & <b>"


def write(path: Path, *values: object) -> None:
    """Lines of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(value) + b"\n" for value in values))


def run(folder: Path) -> None:
    """Two models, one of which has an answer and a name that would break a page."""
    for model, text in (("plain", "Yes"), (EVIL, EVIL)):
        choices = [Choice(index=0, turns=[text, text])]
        write(answer_path(folder, model), Answer(question_id=1, model_id=model, choices=choices))
        graded = [
            Single(
                question_id=question,
                model=name,
                judge=("j", "mesh-single"),
                user_prompt="p",
                judgment=EVIL,
                score=score,
                turn=1,
                unscored=None if score > 0 else "the judge said nothing",
            )
            for question, name, score in ((1, "plain", 7), (5, "plain", 6), (9, "plain", 3), (1, EVIL, -1))
        ]
    write(judgment_path(folder, "j", "single"), *graded)
    game = Pair(
        question_id=1,
        model_1="plain",
        model_2=EVIL,
        g1_winner="model_1",
        g2_winner="model_1",
        judge=("j", "mesh-pair"),
        g1_user_prompt="p",
        g1_judgment=EVIL,
        g2_user_prompt="q",
        g2_judgment="B",
        turn=1,
    )
    write(judgment_path(folder, "j", "pair"), game)
    write(
        failures_path(folder), Failure(kind="answer", question_id=2, model="plain", reason="turn 1: HTTP 500: broken")
    )


def test_the_page_is_whole_and_safe(tmp_path: Path) -> None:
    run(tmp_path)
    questions = load("mesh-mini", tmp_path)
    page.write(tmp_path / "report.html", collect(tmp_path, questions), questions, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert [html.count(part) for part in ("<script", "<svg", "<polygon")] == [2, 4, 7]
    assert "<b>" not in html
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", html)
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    assert data["answers"][EVIL]["1"] == [EVIL, EVIL]
    assert data["grades"][0][-1] == EVIL
    assert data["pairs"][0][-2] == EVIL
    assert len(data["questions"]) == 16


def test_many_models_have_room(tmp_path: Path) -> None:
    """Squares of pairs across the page with names that stand upright, and a long table that is closed at first."""
    names = [f"an-organisation/model-{place:02d}-with-a-long-name" for place in range(12)]
    games = [
        Pair(
            question_id=1,
            model_1=first,
            model_2=second,
            g1_winner="model_1",
            g2_winner="model_1",
            judge=("j", "mesh-pair"),
            g1_user_prompt="p",
            g1_judgment="A",
            g2_user_prompt="q",
            g2_judgment="B",
            turn=1,
        )
        for first, second in itertools.combinations(names, 2)
    ]
    write(judgment_path(tmp_path, "j", "pair"), *games)
    questions = load("mesh-mini", tmp_path)
    html = page.page(collect(tmp_path, questions), questions, {})
    assert html.count("rotate(-90)") == 12
    assert len(re.findall(r"<title>\S+ against \S+: ", html)) == 12 * 11
    assert '<figure class="wide">' in html
    assert "model-07-wi…-long-name" in html  # without the organisation, and cut where names are alike
    assert "<details><summary>66 rows</summary>" in html
    run(tmp_path / "few")
    html = page.page(collect(tmp_path / "few", questions), questions, {})
    assert not re.search(r'rotate|<figure class="wide|<details><summary>', html)


def test_what_is_not_counted_is_on_the_page(tmp_path: Path) -> None:
    run(tmp_path)
    questions = load("mesh-mini", tmp_path)
    html = page.page(collect(tmp_path, questions), questions, {})
    assert "nothing counted" in html
    for words in ("1 unscored, 31 missing", "2 failed, 27 missing", "the judge said nothing", "HTTP 500: broken"):
        assert words in html, words
