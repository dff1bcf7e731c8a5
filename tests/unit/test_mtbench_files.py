"""Question sets, prompts and records: what is read, and what is said about files that are wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mt_bench.cost import estimate
from benchmarks.mt_bench.jsonl import Appender, BadFile, read, repair
from benchmarks.mt_bench.matches import contests, plan
from benchmarks.mt_bench.prompts import choose
from benchmarks.mt_bench.question_set import load
from benchmarks.mt_bench.questions import Question, examine, read_questions
from benchmarks.mt_bench.records import Answer, Choice, Pair, Single, file_name, model_name, settle, tidy
from benchmarks.mt_bench.validation import check

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
official = pytest.mark.skipif(not (DATA / "mt_bench").is_dir(), reason="MT-bench's files are not here")


def write(path: Path, *rows: object) -> Path:
    """A file of JSON lines; texts are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def single(score: float, *, prompt: str = "p", model: str = "m", question: int = 1, turn: int = 1) -> Single:
    """A judgment."""
    return Single(
        question_id=question,
        model=model,
        judge=("j", "single-v1"),
        user_prompt=prompt,
        judgment=f"[[{score}]]",
        score=score,
        turn=turn,
    )


def test_the_shipped_set_is_whole() -> None:
    found = load("mesh-mini", Path("nowhere"))
    categories = [question.category for question in found.questions]
    assert len(found.questions) == 16
    assert check(found.prompts_file.parent) == []
    assert {categories.count(name) for name in categories} == {2}
    assert len(set(categories)) == 8
    assert all(len(question.turns) == 2 for question in found.questions)
    for question in found.questions:
        references = found.references.of(question)
        assert (references is not None) == (question.category in ("math", "coding", "reasoning"))
        for turn in (1, 2):
            choose(found.prompts, "single", question, turn, references is not None)
            choose(found.prompts, "pairwise", question, turn, references is not None)


@official
def test_the_official_sets_are_read_and_use_the_prompts_that_fastchat_would() -> None:
    mt_bench = load("mt_bench", DATA)
    assert [len(mt_bench.questions), len(mt_bench.references.turns)] == [80, 30]
    by_id = {question.id: question for question in mt_bench.questions}
    names = {
        (kind, id_, turn): choose(
            mt_bench.prompts, kind, by_id[id_], turn, mt_bench.references.of(by_id[id_]) is not None
        ).name
        for kind in ("single", "pairwise")
        for id_ in (81, 111)
        for turn in (1, 2)
    }
    assert names == {
        ("single", 81, 1): "single-v1",
        ("single", 81, 2): "single-v1-multi-turn",
        ("single", 111, 1): "single-math-v1",
        ("single", 111, 2): "single-math-v1-multi-turn",
        ("pairwise", 81, 1): "pair-v2",
        ("pairwise", 81, 2): "pair-v2-multi-turn",
        ("pairwise", 111, 1): "pair-math-v1",
        ("pairwise", 111, 2): "pair-math-v1-multi-turn",
    }
    assert [by_id[id_].temperature for id_ in (81, 91, 101, 111, 121, 131, 141, 151)] == [
        0.7,
        0.7,
        0,
        0,
        0,
        0,
        0.1,
        0.1,
    ]
    assert len(load("vicuna_bench", DATA).questions) == 80
    assert check(DATA / "mt_bench") == []
    assert check(DATA / "vicuna_bench") == []


@official
def test_a_whole_judging_has_as_many_requests_as_published(tmp_path: Path) -> None:
    """160 for the grades of a model, 320 for a pair; the tokens of an input were measured at 130,000 for a model."""
    questions = load("mt_bench", DATA)
    answers = {
        model: {
            question.id: Answer(question_id=question.id, model_id=model, choices=[Choice(index=0, turns=[text] * 2)])
            for question in questions.questions
        }
        for model, text in (("a", "x" * 1200), ("b", "y" * 1200))
    }
    grades, pairs = (
        estimate(plan(questions, answers, "j", contests(mode, [*answers], ""), tmp_path).todo)["j"]
        for mode in ("single", "pairwise-all")
    )
    assert (grades.requests, pairs.requests) == (2 * 160, 320)
    assert 2 * 120_000 < grades.usage.prompt_tokens < 2 * 140_000


def test_arena_hard_shapes_have_five_levels(tmp_path: Path) -> None:
    path = write(
        tmp_path / "hard.jsonl",
        {"uid": "a1", "category": "hard_prompt", "prompt": "Sort"},
        {"question_id": "b2", "category": "arena-hard-v0.1", "turns": [{"content": "Sort {x}"}]},
    )
    questions = load(str(path), tmp_path)
    assert questions.questions == (
        Question("a1", "hard_prompt", ("Sort",), five_way=True),
        Question("b2", "arena-hard-v0.1", ("Sort {x}",), five_way=True),
    )
    assert choose(questions.prompts, "pairwise", questions.questions[0], 1, False).output_format == "[[A>B]]"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "broken JSON"),
        ("[1]", "line: must be an object"),
        ({"turns": ["a"]}, "question_id: is missing"),
        ({"question_id": 1.5, "turns": ["a"]}, "question_id: must be a whole number or a text"),
        ({"question_id": 2}, "turns: is missing"),
        ({"question_id": 2, "turns": []}, "turns: must be a list of 1 or 2 texts"),
        ({"question_id": 2, "turns": ["a", "b", "c"]}, "turns: must be a list of 1 or 2 texts"),
        ({"question_id": 2, "turns": ["a", " "]}, "turns[1]: must be a text that is not empty"),
        ({"question_id": 2, "turns": ["a"], "category": 3}, "category: must be a text"),
        ({"question_id": 2, "turns": ["a"], "required_temperature": 3}, "required_temperature: must be a number"),
        ({"question_id": 1, "turns": ["a"]}, "question_id: 1 is already in line 1"),
    ],
)
def test_what_is_wrong_with_questions_is_named(tmp_path: Path, row: object, said: str) -> None:
    first, last = ({"question_id": id_, "turns": ["Why?"]} for id_ in (1, 9))
    path = write(tmp_path / "question.jsonl", first, row, last)
    with pytest.raises(BadFile, match=f"^{path}:2: ") as caught:
        read_questions(path)
    assert said in str(caught.value)
    questions, problems = examine(path)
    assert [question.id for question in questions][-1] == 9  # the others are looked at, too
    assert len(problems) == 1


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4), st.data())
def test_a_file_that_is_cut_anywhere_has_its_whole_lines(values: list[str], data: st.DataObject) -> None:
    """What a kill in the middle of a write leaves."""
    whole = b"".join(msgspec.json.encode({"text": value}) + b"\n" for value in values)
    cut = data.draw(st.integers(0, len(whole)))
    # A line that lacks nothing but its end is whole.
    count = whole[:cut].count(b"\n") + (whole[cut : cut + 1] == b"\n")
    expected = [{"text": value} for value in values[:count]]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cut.jsonl"
        path.write_bytes(whole[:cut])
        assert read(path, dict[str, str]) == expected
        asyncio.run(Appender().append(path, {"text": "next"}))
        assert read(path, dict[str, str]) == [*expected, {"text": "next"}]


def test_repair_leaves_whole_files_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"a": 1})
    before = path.stat().st_mtime_ns
    repair(path)
    assert path.stat().st_mtime_ns == before
    path.write_text('{"a": 1}')
    repair(path)
    assert path.read_text() == '{"a": 1}\n'


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"question_id": 1, "model_id": "m", "choices": []}, "{torn", {"question_id": 2})
    with pytest.raises(BadFile, match=r"a.jsonl:2: broken JSON"):
        read(path, Answer)
    path = write(tmp_path / "b.jsonl", {"question_id": 1, "model_id": "m", "choices": [{"index": 0, "turns": "x"}]})
    with pytest.raises(BadFile, match=r"b.jsonl:1: choices\[0\].turns: Expected `array`, got `str`"):
        read(path, Answer)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [([5, 7], 7), ([5, -1], 5), ([-1, 5], 5), ([-1, -1], -1)],
)
def test_of_judgments_about_the_same_the_last_verdict_counts(scores: list[float], kept: float) -> None:
    assert [line.score for line in settle([single(score) for score in scores])] == [kept]


def test_a_verdict_about_an_older_answer_does_not_stay() -> None:
    assert [line.score for line in settle([single(5, prompt="old"), single(-1, prompt="new")])] == [-1]


def test_pairs_are_the_same_in_both_orders() -> None:
    def pair(first: str, second: str, winner: Any) -> Pair:
        return Pair(
            question_id=1,
            model_1=first,
            model_2=second,
            g1_winner=winner,
            g2_winner=winner,
            judge=("j", "pair-v2"),
            g1_user_prompt=f"{first}{second}",
            g1_judgment="",
            g2_user_prompt=f"{second}{first}",
            g2_judgment="",
            turn=1,
        )

    lines = [pair("a", "b", "model_1"), pair("b", "a", "error"), pair("a", "c", "tie")]
    assert [(line.model_1, line.model_2) for line in settle(lines)] == [("a", "b"), ("a", "c")]


def test_files_in_order_keep_the_bytes_of_others(tmp_path: Path) -> None:
    foreign = '{"model_id":"m",  "question_id": 2, "choices":[{"index":0,"turns":["x"]}], "their": 1}'
    mine = Answer(question_id=1, model_id="m", choices=[Choice(index=0, turns=["y"])])
    path = write(tmp_path / "m.jsonl", foreign, msgspec.json.encode(mine).decode())
    tidy(path, Answer, [1, 2], list)
    assert path.read_text().splitlines() == [msgspec.json.encode(mine).decode(), foreign]


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30))
def test_names_of_models_are_safe_as_names_of_files(model: str) -> None:
    name = file_name(model)
    assert "/" not in name
    assert "\0" not in name
    assert model_name(name) == model


def test_corrections_are_laid_over_and_named(tmp_path: Path) -> None:
    overlay = write(tmp_path / "fixed.jsonl", {"question_id": 7, "turns": [None, "In 3 hours."]})
    plain = load("mesh-mini", tmp_path)
    fixed = load("mesh-mini", tmp_path, corrections=overlay)
    assert fixed.references.turns[7] == (plain.references.turns[7][0], "In 3 hours.")
    assert fixed.references.turns[8] == plain.references.turns[8]
    assert fixed.references.name.startswith("mesh-mini + fixed.jsonl (")
    with pytest.raises(BadFile, match=r"fixed\.jsonl:1: question_id: the set has no question 99"):
        load("mesh-mini", tmp_path, corrections=write(overlay, {"question_id": 99, "turns": ["x"]}))
    with pytest.raises(BadFile, match=r"fixed\.jsonl:1: turns: must be 2, not 1"):
        load("mesh-mini", tmp_path, corrections=write(overlay, {"question_id": 7, "turns": ["x"]}))


def test_a_math_question_without_a_reference_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "own" / "question.jsonl", {"question_id": 1, "category": "math", "turns": ["1 + 1?"]})
    questions = load("own", tmp_path)
    with pytest.raises(BadFile, match="question 1: there is no reference answer for its category, math"):
        questions.references.of(questions.questions[0])
    [found] = check(tmp_path / "own")
    assert found.startswith(f"{tmp_path / 'own'}: question 1: there is no reference answer")
    assert "reference_answer/NAME.jsonl" in found


def test_the_validator_names_file_line_and_field(tmp_path: Path) -> None:
    answers = write(
        tmp_path / "model_answer" / "m.jsonl",
        {"question_id": 1, "model_id": "m", "choices": [{"index": 0, "turns": ["", "$ERROR$"]}]},
        {"question_id": 1, "model_id": "m", "choices": [{"index": 0, "turns": ["x"]}]},
        {"question_id": 2, "choices": []},
    )
    judged = write(
        tmp_path / "model_judgment" / "j_single.jsonl",
        msgspec.json.encode(single(11)).decode(),
        msgspec.json.encode(single(3, question=2)).decode(),
    )
    prompts = write(
        tmp_path / "judge_prompts.jsonl",
        {
            "name": "p",
            "type": "single",
            "system_prompt": "",
            "prompt_template": "{question} {anwser}",
            "output_format": "[[rating]]",
        },
    )
    assert check(tmp_path) == [
        f"{prompts}:1: prompt_template: lacks {{answer}}",
        f"{answers}:1: choices[0].turns[0]: is empty",
        f"{answers}:1: choices[0].turns[1]: is FastChat's mark of a failure, not an answer",
        f"{answers}:2: is about the same as line 1; the later one counts",
        f"{answers}:3: Object missing required field `model_id`",
        f"{judged}:1: score: must be between 1 and 10, or -1 for none, not 11",
    ]


def test_a_file_whose_first_line_is_broken_is_still_what_it_is(tmp_path: Path) -> None:
    judged = write(tmp_path / "j_single.jsonl", "{torn", msgspec.json.encode(single(11)).decode())
    first, second = check(judged)
    assert first.startswith(f"{judged}:1: broken JSON")
    assert second == f"{judged}:2: score: must be between 1 and 10, or -1 for none, not 11"


def test_sets_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"--bench 'mt-bench' is neither shipped \(mesh-mini\) nor in "):
        load("mt-bench", tmp_path)
