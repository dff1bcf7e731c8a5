"""Means, differences, win rates, style control and agreement, against other people's code and by hand."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.api import Logit
from statsmodels.stats import multitest

from benchmarks.mt_bench import stats
from benchmarks.mt_bench.agreement import agreements, read_votes
from benchmarks.mt_bench.alike import alike, alpha
from benchmarks.mt_bench.counts import Counts
from benchmarks.mt_bench.duels import compare
from benchmarks.mt_bench.export import as_csv
from benchmarks.mt_bench.grades import grade
from benchmarks.mt_bench.jsonl import BadFile
from benchmarks.mt_bench.question_set import load
from benchmarks.mt_bench.questions import Question, QuestionId
from benchmarks.mt_bench.records import Answer, Choice, Failure, Pair, Single, answer_path, judgment_path, settle
from benchmarks.mt_bench.results import collect
from benchmarks.mt_bench.style import Battle, control

# Their types are partial.
SCIPY: Any = scipy_stats
MULTITEST: Any = multitest

QUESTIONS: dict[QuestionId, Question] = {
    id_: Question(id_, "math" if id_ > 2 else "writing", ("a", "b")) for id_ in (1, 2, 3, 4)
}


def single(model: str, question: int, turn: int, score: float, judge: str = "j") -> Single:
    """A judgment."""
    return Single(
        question_id=question,
        model=model,
        judge=(judge, "single-v1"),
        user_prompt="p",
        judgment="",
        score=score,
        turn=turn,
        unscored=None if score >= 0 else "several ratings: 7, 9",
    )


def pair(question: int, winners: tuple[Any, Any], models: tuple[str, str] = ("a", "b"), **fields: Any) -> Pair:
    """Two games."""
    given: dict[str, Any] = {"turn": 1, "judge": ("j", "pair-v2"), **fields}
    return Pair(
        question_id=question,
        model_1=models[0],
        model_2=models[1],
        g1_winner=winners[0],
        g2_winner=winners[1],
        g1_user_prompt="",
        g1_judgment="",
        g2_user_prompt="",
        g2_judgment="",
        **given,
    )


def test_the_mean_is_over_all_grades_and_says_what_is_not_in_it() -> None:
    lines = [single("a", 1, 1, 8), single("a", 1, 2, 4), single("a", 2, 1, 3), single("a", 3, 1, -1)]
    failures = [
        Failure(kind="answer", question_id=4, model="a", reason="HTTP 500"),
        Failure(kind="single", question_id=2, model="a", judge="j", turn=2, reason="HTTP 429"),
        Failure(kind="single", question_id=3, model="a", judge="another", turn=2, reason="HTTP 429"),
    ]
    found = grade("j", ["j"], lines, QUESTIONS, failures, {}).models[0]
    assert found.overall.value == 5.0  # not the mean of the turns' means, 4.75
    assert found.overall.n == 3
    assert {turn: mean.value for turn, mean in found.turns.items()} == {1: 5.5, 2: 4.0}
    assert found.categories["writing"].value == 5.0
    assert found.categories["math"].n == 0
    # Of 8: three counted, one verdict unread, two turns unanswered and one not judged for a failure, one not yet.
    assert found.counts == Counts(n=3, unscored=1, failed=3, missing=1)


def test_a_model_that_only_failed_is_shown() -> None:
    failures = [Failure(kind="answer", question_id=id_, model="b", reason="HTTP 404") for id_ in QUESTIONS]
    rows = grade("j", ["j"], [single("a", 1, 1, 8)], QUESTIONS, failures, {}).models
    assert [(row.model, row.counts.failed) for row in rows] == [("a", 0), ("b", 8)]


def test_intervals_and_tests_equal_scipys() -> None:
    draw = random.Random(3)
    gaps = np.array([draw.gauss(0.7, 1) for _ in range(60)])
    found = stats.difference({question: [gap] for question, gap in enumerate(gaps)})
    assert found is not None
    bounds = SCIPY.bootstrap((gaps,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert found.value == pytest.approx(gaps.mean())
    assert found.low == pytest.approx(bounds.low, abs=0.03)
    assert found.high == pytest.approx(bounds.high, abs=0.03)

    def mean_gap(x: Any, y: Any, axis: int) -> Any:
        return np.mean(x - y, axis=axis)

    tested = SCIPY.permutation_test((gaps, np.zeros_like(gaps)), mean_gap, permutation_type="samples", rng=1)
    assert found.p == pytest.approx(tested.pvalue, abs=0.003)


def test_a_small_sign_flip_test_is_exact() -> None:
    gaps = np.array([1.0, 2.0, 0.0, 0.5, 1.5])
    # Of 16 assignments of signs to the four that differ only the two with equal signs are as extreme.
    assert stats.sign_flip(gaps) == 2 / 16
    assert stats.sign_flip(np.zeros(3)) == 1.0


def test_a_difference_counts_each_grade_and_draws_whole_questions() -> None:
    """Question 1 has two turns, the others one: by hand, the 8 assignments of signs to 3 questions."""
    first = [single("a", 1, 1, 9), single("a", 1, 2, 7), single("a", 2, 1, 5), single("a", 3, 1, 5)]
    second = [single("b", 1, 1, 6), single("b", 1, 2, 5), single("b", 2, 1, 4), single("b", 3, 1, 7)]
    alone = [single("a", 4, 1, 10), single("b", 4, 1, -1)]  # a grade that only one of them has
    (gap,) = grade("j", ["j"], [*first, *second, *alone], QUESTIONS, [], {}).gaps
    assert (gap.first, gap.second, gap.difference.questions) == ("a", "b", 3)
    assert gap.difference.value == (3 + 2 + 1 - 2) / 4
    # The sums 5, 1, -2 add up to 4. As far from 0 or farther: 8, 6, 4 and their opposites; not 2.
    assert gap.difference.p == 6 / 8


def test_holm_and_spearman_equal_others() -> None:
    draw = random.Random(5)
    values = [draw.random() ** 3 for _ in range(9)]
    assert stats.holm(values) == pytest.approx(MULTITEST.multipletests(values, method="holm")[1])
    first = [draw.randrange(10) for _ in range(50)]
    second = [value + draw.randrange(6) for value in first]
    assert stats.rank_correlation(first, second) == pytest.approx(SCIPY.spearmanr(first, second).statistic)
    assert stats.rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_an_interval_draws_questions_and_not_grades() -> None:
    """Two turns that always agree bear no more information than one."""
    draw = random.Random(1)
    once: dict[object, list[float]] = {question: [float(draw.randrange(1, 11))] for question in range(40)}
    twice: dict[object, list[float]] = {question: values * 2 for question, values in once.items()}
    one, two = stats.mean(once), stats.mean(twice)
    assert (two.low, two.high) == (one.low, one.high)
    assert two.n == 2 * one.n
    alone = stats.mean({1: [5.0, 7.0]})
    assert (alone.value, alone.low) == (6.0, None)


def test_only_who_wins_both_games_wins() -> None:
    lines = [
        pair(1, ("model_1", "model_1")),
        pair(2, ("model_1", "model_2")),  # whoever is shown first
        pair(3, ("model_2", "model_1")),  # whoever is shown second
        pair(4, ("tie", "model_2")),
        pair(1, ("tie", "tie"), turn=2),
        pair(2, ("model_2", "model_2"), turn=2),
        pair(3, ("error", "model_1"), turn=2, unscored="game 1: the judge said nothing"),
    ]
    found = compare("j", ["j"], lines, QUESTIONS, [], {}, None)
    record = {row.model: row.record for row in found.models}
    assert [(row.wins, row.ties, row.losses) for row in (record["a"], record["b"])] == [(1, 4, 1), (1, 4, 1)]
    assert record["a"].adjusted.value == 0.5
    assert (found.bias.n, found.bias.consistent, found.bias.first, found.bias.second) == (6, 3, 1, 1)
    assert found.models[0].counts == Counts(n=6, unscored=1, failed=0, missing=1)


def test_pairs_are_tested_together() -> None:
    """Holm: the smallest of three p is multiplied by three, the next by two."""
    lines = [
        pair(question, (winner, winner), models)
        for models, won in ((("a", "b"), 7), (("a", "c"), 6), (("b", "c"), 4))
        for question in range(1, 8)
        for winner in ["model_1" if question <= won else "model_2"]
    ]
    found = {(each.first, each.second): each for each in compare("j", ["j"], lines, QUESTIONS, [], {}, None).contests}
    assert [each.p for each in found.values()] == [2 / 2**7, 16 / 2**7, 1.0]
    assert [each.p_holm for each in found.values()] == [3 * 2 / 2**7, 2 * 16 / 2**7, 1.0]


def test_a_baseline_has_no_row_and_others_do_not_count() -> None:
    lines = [pair(1, ("model_1", "model_1")), pair(1, ("model_2", "model_2"), models=("a", "c"))]
    assert [row.model for row in compare("j", ["j"], lines, QUESTIONS, [], {}, "b").models] == ["a"]
    assert [row.model for row in compare("j", ["j"], lines, QUESTIONS, [], {}, None).models] == ["c", "a", "b"]


def test_strong_verdicts_weigh_three() -> None:
    lines = [pair(1, ("model_1", "model_2"), g1_verdict="A>>B", g2_verdict="A>B")]
    found = compare("j", ["j"], lines, QUESTIONS, [], {}, "b").models[0]
    assert found.weighted is not None
    assert found.weighted.value == 3 / 4


def test_csv_has_every_rate_of_comparisons(tmp_path: Path) -> None:
    lines = [pair(id_, ("model_1", "tie"), turn=turn, g1_verdict="A>>B") for id_ in range(1, 6) for turn in (1, 2)]
    for model, text in (("a", "word " * 9), ("b", "word")):
        answers = [
            Answer(question_id=id_, model_id=model, choices=[Choice(index=0, turns=[text * id_] * 2)])
            for id_ in range(1, 6)
        ]
        path = answer_path(tmp_path, model)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\n".join(map(msgspec.json.encode, answers)))
    path = judgment_path(tmp_path, "j", "pair")
    path.parent.mkdir()
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    rows = [*csv.DictReader(as_csv(collect(tmp_path, load("mesh-mini", tmp_path))).splitlines())]
    found = {(row["what"], row["turn"]): row["value"] for row in rows if row["model"] == "a" and not row["against"]}
    assert [found["adjusted win rate", turn] for turn in ("", "1", "2")] == ["0.5"] * 3
    assert float(found["weighted win rate", ""]) == 3.5 / 4
    assert {row["what"] for row in rows} >= {
        "win rate with equal style",
        "consistent when swapped",
        "favours first",
        "p (Holm)",
        "missing",
    }


def test_style_control_equals_a_logistic_regression_with_the_same_columns() -> None:
    draw = random.Random(2)
    texts = {model: ["word " * draw.randrange(20, 200) for _ in range(300)] for model in "abc"}
    battles: list[Battle] = []
    for question, (first, second) in enumerate(itertools.islice(itertools.cycle(["ab", "bc", "ca"]), 300)):
        mine, theirs = len(texts[first][question]), len(texts[second][question])
        skill = {"a": 0.0, "b": 0.5, "c": 1.0}
        chance = 1 / (1 + math.exp(-(skill[first] - skill[second] + 2 * (mine - theirs) / (mine + theirs))))
        outcome = float(draw.random() < chance)
        battles.append(Battle(question // 3, first, second, texts[first][question], texts[second][question], outcome))
    found = control(battles, "a")
    assert found is not None
    lengths = np.array([[len(b.first_text.split()), len(b.second_text.split())] for b in battles], dtype=float)
    gap = (lengths[:, 0] - lengths[:, 1]) / lengths.sum(axis=1)
    columns = [[(b.first == model) - (b.second == model) for b in battles] for model in "bc"]
    design = np.column_stack([*columns, gap / np.sqrt((gap**2).mean())])
    fit = Logit([b.outcome for b in battles], design).fit(disp=0)
    assert found.weights["length"] == pytest.approx(fit.params[2], abs=1e-3)
    rates = {each.model: each.rate for each in found.strengths}
    assert [rates["b"], rates["c"]] == pytest.approx(list(1 / (1 + np.exp(-fit.params[:2]))), abs=1e-3)
    assert found.weights["bold"] == 0.0
    # 100 questions of three battles each; statsmodels corrects for the number of columns, too.
    groups = {"groups": [b.question for b in battles], "df_correction": False}
    robust = Logit([b.outcome for b in battles], design).fit(disp=0, cov_type="cluster", cov_kwds=groups)
    errors = robust.bse[:2] * math.sqrt((300 - 3) / (300 - 1))
    for model, centre, error in zip("bc", fit.params[:2], errors, strict=True):
        low, high = (1 / (1 + math.exp(-(centre + side * 1.96 * error))) for side in (-1, 1))
        (mine,) = (each for each in found.strengths if each.model == model)
        assert (mine.low, mine.high) == pytest.approx((low, high), abs=1e-3)


def test_style_control_says_nothing_where_styles_are_equal() -> None:
    battles = [Battle(question, "a", "b", "x", "x", 1.0) for question in range(20)]
    assert control(battles, "a") is None


# Four observers, twelve units, as Krippendorff has them in "Computing Krippendorff's Alpha-Reliability" (2011).
OBSERVED = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def test_alpha_is_krippendorffs() -> None:
    units = [[int(value) for value in unit if value != "."] for unit in zip(*OBSERVED, strict=True)]
    pairable = [unit for unit in units if len(unit) > 1]
    assert alpha(pairable, lambda a, b: float(a != b)) == pytest.approx(0.743, abs=5e-4)
    assert alpha(pairable, lambda a, b: float(a - b) ** 2) == pytest.approx(0.849, abs=5e-4)
    assert alpha([[1, 1], [1, 1]], lambda a, b: float(a != b)) is None


def test_judges_are_compared_two_by_two_and_all_together() -> None:
    scores = {"j": (8, 4, 6), "k": (8, 5, 6), "l": (2, -1, 6)}
    lines = [single("a", id_, 1, score, judge) for judge, row in scores.items() for id_, score in enumerate(row, 1)]
    found = alike(lines, [pair(1, ("tie", "tie"))])
    assert [(each.judges, each.n, each.equal, each.distance) for each in found] == [
        (("j", "k", "l"), 3, 1 / 3, None),
        (("j", "k"), 3, 2 / 3, 1 / 3),
        (("j", "l"), 2, 1 / 2, 3),
        (("k", "l"), 2, 1 / 2, 3),
    ]


# What FastChat's show_result printed for real runs, as published in model cards and repositories: the grades behind
# each turn (80 less those without a verdict), and three means. Verdicts lack here and there, with granite most of all.
PUBLISHED = {
    "gpt-4": ((80, 8.95625), (80, 9.025), 8.990625),
    "gpt-3.5-turbo": ((80, 8.075), (80, 7.8125), 7.94375),
    "claude-instant-v1": ((80, 7.8), (79, 8.012658), 7.905660),
    "claude-v1": ((80, 8.15), (80, 7.65), 7.9),
    "vicuna-13b-v1.3": ((80, 6.8125), (80, 5.9625), 6.3875),
    "stablelm-2-brief-1_6b_3": ((79, 3.202532), (79, 2.443038), 2.822785),
    "stablelm-2-brief-1_6b_2": ((79, 3.240506), (80, 2.35), 2.792453),
    "granite-7b-lab": ((37, 7.621622), (3, 4.666667), 7.4),
}


def with_mean(model: str, turn: int, n: int, mean: float) -> list[Single]:
    """80 grades in halves, of which n have a verdict and that mean."""
    halves = round(2 * n * mean)
    scores = [(halves // n + (place < halves % n)) / 2 for place in range(n)] + [-1] * (80 - n)
    return [single(model, question, turn, score) for question, score in enumerate(scores)]


def test_scores_are_those_of_published_tables() -> None:
    """A mean of the turns' means would be another number wherever verdicts lack."""
    lines = [
        line
        for model, (first, second, _) in PUBLISHED.items()
        for turn, (n, mean) in ((1, first), (2, second))
        for line in with_mean(model, turn, n, mean)
    ]
    rows = {row.model: row for row in grade("gpt-4", ["gpt-4"], lines, QUESTIONS, [], {}).models}
    for model, (first, second, overall) in PUBLISHED.items():
        row = rows[model]
        found = (row.turns[1].n, row.turns[1].value, row.turns[2].n, row.turns[2].value, row.overall.value)
        assert found == pytest.approx((*first, *second, overall), abs=5e-7), model
        assert row.counts.unscored == 160 - first[0] - second[0]


def test_doubles_that_a_published_table_counted_are_not_counted() -> None:
    """arcee-spark's: 8.777778, 8.164634 and 8.469325 are means of 81, 82 and 163 grades, of 160 that there can be."""
    doubled = [single("arcee-spark", question, 1, 8) for question in (1, 2, 2)]
    assert pytest.approx((711 + 669.5) / (81 + 82), abs=5e-7) == 8.469325
    assert grade("gpt-4", ["gpt-4"], settle(doubled), QUESTIONS, [], {}).models[0].counts.n == 2


def vote(question: int, judge: Any, winner: str, a: str = "m", b: str = "n", turn: int = 1) -> dict[str, Any]:
    """A line in FastChat's shape."""
    return {"question_id": question, "model_a": a, "model_b": b, "winner": winner, "judge": judge, "turn": turn}


def test_agreement_counts_pairs_of_votes_as_the_paper_does(tmp_path: Path) -> None:
    gpt = ["gpt-4", "pair-v2"]
    votes = [
        *[vote(1, gpt, "model_a"), vote(1, "expert_1", "model_a"), vote(1, "expert_2", "model_b")],
        # The same pair named the other way round.
        *[vote(2, gpt, "model_b", "n", "m"), vote(2, "expert_1", "model_a"), vote(2, "expert_3", "tie (bothbad)")],
        *[vote(3, gpt, "tie (inconsistent)"), vote(3, "expert_1", "tie"), vote(3, "author_0", "model_a")],
        vote(4, "expert_1", "model_a"),  # nobody to agree with
    ]
    path = tmp_path / "votes.json"
    path.write_text(json.dumps(votes))
    found = agreements(read_votes(path), "gpt4-pair", "human")
    assert [(each.ties, each.agree, each.total) for each in found] == [(True, 3, 5), (False, 2, 3)]
    found = agreements(read_votes(path), "human", "human")
    assert [(each.ties, each.agree, each.total) for each in found] == [(True, 0, 2), (False, 0, 1)]
    found = agreements(read_votes(path), "author", "human", per_pair=True)
    assert [(each.models, each.ties, each.agree, each.total) for each in found] == [
        (None, True, 0, 1),
        (None, False, 0, 0),
        (("m", "n"), True, 0, 1),
    ]
    with pytest.raises(BadFile, match="'claude': no vote is by it; there are votes by author, gpt-4-pair, human"):
        agreements(read_votes(path), "claude", "human")


def test_agreement_by_chance_is_a_third_with_ties_and_a_half_without(tmp_path: Path) -> None:
    draw = random.Random(2)
    path = tmp_path / "votes.json"
    winners = ("model_a", "model_b", "tie")
    path.write_text(
        json.dumps(
            [vote(id_, judge, draw.choice(winners)) for id_ in range(4000) for judge in ("expert_1", "gpt4_pair")]
        )
    )
    found = {each.ties: each for each in agreements(read_votes(path), "gpt4_pair", "human")}
    assert [found[True].ratio, found[False].ratio] == pytest.approx([1 / 3, 1 / 2], abs=0.03)
    assert [found[True].kappa, found[False].kappa] == pytest.approx([0, 0], abs=0.05)


def test_the_published_votes_are_read_by_their_own_names(tmp_path: Path) -> None:
    """Lines as the data set lmsys/mt_bench_human_judgments has them, with the conversations beside the vote."""
    path = tmp_path / "votes.jsonl"
    lines = [vote(1, judge, "model_a") | {"conversation_a": "…"} for judge in ("gpt4_pair", "expert_1", "author_2")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    votes = read_votes(path)
    assert [each.voter for each in votes] == ["gpt-4-pair", "human", "author"]
    for name in ("gpt4_pair", "gpt4-pair", "gpt-4-pair"):
        assert [each.agree for each in agreements(votes, name, "human")] == [1, 1]


def test_votes_are_read_from_judgments_too(tmp_path: Path) -> None:
    path = tmp_path / "j_pair.jsonl"
    lines = [pair(1, ("model_1", "model_1")), pair(2, ("model_1", "model_2")), pair(3, ("error", "tie"))]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines)) + b"\n")
    assert [(each.question, each.voter, each.choice) for each in read_votes(path)] == [
        (1, "j-pair", "model_a"),
        (2, "j-pair", "tie"),
    ]
    path = tmp_path / "j_single.jsonl"
    graded = [single("a", 1, 1, 8), single("b", 1, 1, 9), single("c", 1, 1, 8), single("d", 1, 1, -1)]
    graded = [msgspec.structs.replace(line, judge=("j", "a prompt of any name")) for line in graded]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, graded)) + b"\n")
    assert [(each.model_a, each.model_b, each.voter, each.choice) for each in read_votes(path)] == [
        ("a", "b", "j-single", "model_b"),
        ("a", "c", "j-single", "tie"),
        ("b", "c", "j-single", "model_a"),
    ]


def test_votes_that_are_wrong_are_named(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps(vote(1, "expert_1", "model_a")) + "\n" + json.dumps(vote(1, "expert_1", "both")) + "\n")
    with pytest.raises(BadFile, match=r"votes.jsonl:2: winner: must be model_a, model_b or tie, not 'both'"):
        read_votes(path)
