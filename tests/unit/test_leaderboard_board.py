"""Boards: ranks, categories, style control, sensitivity, and what is shown of them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.harness import wait_until
from webui.leaderboard import figures, table
from webui.leaderboard.ballots import Ballots, Group, Tally, cells
from webui.leaderboard.board import POINTS, BoardRules, rate, rate_with_style
from webui.leaderboard.bradley_terry import fit, sigmoid
from webui.leaderboard.categories import CATEGORIES, in_category, present
from webui.leaderboard.cells import from_counts
from webui.leaderboard.graph import Status
from webui.leaderboard.live import LiveLeaderboard
from webui.leaderboard.report import report
from webui.leaderboard.sensitivity import sensitivity
from webui.records import ModelCard, StoreUnavailable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def group(a: str, b: str, choice: str = "a", **more: str | bool) -> Group:
    return Group(a, b, choice, "en", "", "", True)._replace(**more)


# a beats b beats c, clearly; d is undefeated, e has no win, f and g play among themselves.
TALLY: Tally = {
    group("a", "b"): 700,
    group("b", "a"): 300,
    group("b", "c"): 700,
    group("c", "b"): 300,
    group("a", "c", "tie"): 10,
    group("d", "a"): 5,
    group("c", "e"): 5,
    group("f", "g"): 3,
    group("g", "f"): 3,
}


def test_ranks_and_what_has_none() -> None:
    board = rate(TALLY)
    assert [(s.model, s.rank, s.status) for s in board.standings] == [
        ("a", 1, Status.RANKED),
        ("b", 2, Status.RANKED),
        ("c", 3, Status.RANKED),
        ("d", None, Status.UNDEFEATED),
        ("e", None, Status.WINLESS),
        ("f", None, Status.UNCONNECTED),
        ("g", None, Status.UNCONNECTED),
    ]
    assert board.votes == sum(TALLY.values())
    scores = [s.score for s in board.standings if s.score is not None]
    assert np.mean(scores) == pytest.approx(1000)


def test_overlapping_intervals_share_a_rank() -> None:
    board = rate({group("a", "b"): 51, group("b", "a"): 49, group("b", "c"): 90, group("c", "b"): 10})
    assert [(s.model, s.rank) for s in board.standings] == [("a", 1), ("b", 1), ("c", 3)]


def test_an_anchor_holds_the_scale_and_a_missing_one_is_told() -> None:
    board = rate(TALLY, rules=BoardRules(anchor=("b", 1114)))
    assert {s.model: s.score for s in board.standings}["b"] == pytest.approx(1114)
    assert "anchor nobody is not ranked" in rate(TALLY, rules=BoardRules(anchor=("nobody", 1))).notes[0]


def test_models_with_few_votes_are_scored_and_not_ranked() -> None:
    tally = {**TALLY, group("a", "new"): 3, group("new", "a"): 2}
    board = rate(tally, rules=BoardRules(minimum_votes=100))
    standing = next(s for s in board.standings if s.model == "new")
    assert standing.rank is None
    assert standing.score is not None
    assert table.interval(standing) == "too few votes"
    assert len(board.ranked) == 3


def test_bootstrap_intervals_are_near_the_sandwich_s() -> None:
    plain, drawn = (rate(TALLY, rules=BoardRules(intervals=kind, rounds=300)) for kind in ("sandwich", "bootstrap"))
    for one, other in zip(plain.ranked, drawn.ranked, strict=True):
        assert one.score == other.score
        assert (other.low, other.high) == (pytest.approx(one.low, abs=6), pytest.approx(one.high, abs=6))


def test_no_votes_are_an_empty_board() -> None:
    board = rate({})
    assert board.standings == ()
    assert board.notes == ("There are no votes yet.",)
    lonely = rate({group("a", "b"): 1})  # one vote ranks nobody
    assert [s.rank for s in lonely.standings] == [None, None]
    assert lonely.notes != board.notes  # there is a vote


def test_categories_take_their_votes_and_void_ones_never_count() -> None:
    tally = {
        group("a", "b"): 1,
        group("a", "b", categories=",code,multi_turn,"): 2,
        group("a", "b", "tie", language="de"): 4,
        group("a", "b", marks=",refusal,"): 8,
        group("a", "b", marks=",identity,"): 16,
        group("a", "b", marks=",report,repeated,"): 32,
        group("a", "b", categories=",short_query,", distinct=False): 64,
    }
    votes = {name: sum(in_category(tally, category).values()) for name, category in CATEGORIES.items()}
    expected = {
        "overall": 79,
        "code": 2,
        "multi_turn": 2,
        "no_short": 15,
        "no_tie": 75,
        "no_refusal": 71,
        "distinct": 15,
        "language_en": 75,
        "language_de": 4,
        "finished": 79,
    }
    assert {name: number for name, number in votes.items() if number} == expected
    assert {category.name for category in present(tally)} == set(expected) - {"finished"}


def styled_ballots(n: int = 6000) -> Ballots:
    """Two models as good as each other, of which `long` writes more, which voters like."""
    rng = np.random.default_rng(3)
    groups = [group(a, b, choice) for a, b in (("long", "short"), ("short", "long")) for choice in "ab"]
    side = rng.integers(0, 2, n)
    lengths = np.stack([rng.integers(50, 300, n), rng.integers(20, 200, n)], axis=1)
    lengths[side == 1] = lengths[side == 1][:, ::-1]
    share = (lengths[:, 0] - lengths[:, 1]) / lengths.sum(axis=1)
    wins = rng.random(n) < sigmoid(2.0 * share)
    style = np.zeros((n, 4, 2), np.int32)
    style[:, 0] = lengths
    codes = 2 * side + (1 - wins.astype(np.int64))
    return Ballots(tuple(groups), codes, np.arange(n, dtype=float), style, np.zeros(n, np.int64), ("v",))


def test_style_control_on_a_board() -> None:
    ballots = styled_ballots()
    plain, styled = rate(ballots.tally()), rate_with_style(ballots)
    assert plain.ranked[0].model == "long"
    assert plain.ranked[1].rank == 2
    assert [s.rank for s in styled.ranked] == [1, 1]
    assert styled.styled
    assert set(styled.style) == {"length"}  # no answer had a header
    assert styled.style["length"][0] > 20


def test_style_control_says_when_it_cannot_be() -> None:
    ballots = styled_ballots(200)
    ballots.style[:] = 7
    assert not rate_with_style(ballots).style
    ballots.style[:, 0, 0] = np.where(ballots.group < 2, 90, 10)  # length is the model
    ballots.style[:, 0, 1] = np.where(ballots.group < 2, 10, 90)
    board = rate_with_style(ballots)
    assert not board.styled
    assert "cannot be told from the models" in board.notes[0]


def test_what_the_first_place_hangs_on() -> None:
    counted = from_counts([("a", "b", 1, 503), ("b", "a", 1, 497), ("a", "c", 1, 600), ("c", "a", 1, 400)])
    # What is known of b and a is their own 1,000 votes: without six of a's wins they are even, without seven b leads.
    found = sensitivity(counted, fit(counted).theta)
    assert found is not None
    assert (found.leader, found.rival, found.votes) == ("a", "b", 7)
    without = from_counts([("a", "b", 1, 503 - 7), ("b", "a", 1, 497), ("a", "c", 1, 600), ("c", "a", 1, 400)])
    theta = fit(without).theta
    assert theta[1] > theta[0]


def test_a_clear_lead_hangs_on_no_few_votes() -> None:
    found = rate(TALLY).sensitivity
    assert found is not None
    assert (found.leader, found.rival, found.votes) == ("a", None, None)
    assert rate({group("a", "b", "tie"): 3}).sensitivity is not None


def test_a_lead_that_hangs_on_one_vote_says_so() -> None:
    board = rate({group("a", "b"): 2, group("b", "a"): 2, group("a", "b", "tie"): 1})
    assert "hangs on 1 vote (20.00%): without it b would lead." in table.summary(board, NOW)


def test_a_single_vote_is_told_as_one() -> None:
    assert table.summary(rate({group("a", "b", "tie"): 1}), NOW).startswith("1 vote on 2 models, 2 ranked; ")


def test_cells_of_a_tally() -> None:
    counted = cells({group("b", "a", "both_bad"): 3, group("a", "b", "b"): 4})
    assert (counted.ties.tolist(), counted.losses.tolist()) == ([3], [4])


CARDS = {
    "a": ModelCard(name="a", organization="<Acme>", license="MIT", link="https://example.org/a?b=1&c"),
    "b": ModelCard(name="b", organization="=1+1", link="javascript:alert(1)"),
}


def test_tables_for_page_spreadsheet_and_programs() -> None:
    board = rate(TALLY, rules=BoardRules(anchor=("a", 1200)))
    first, second = table.rows(board, CARDS)[:2]
    assert first[:3] == [1, "[a](https://example.org/a?b=1&c)", 1200]
    assert re.fullmatch(r"\+\d+ / −\d+", first[3])
    assert second[1] == "b"
    rows = list(csv.DictReader(io.StringIO(table.as_csv(board, CARDS))))
    assert (rows[0]["model"], rows[0]["score"], rows[1]["organization"]) == ("a", "1200.0", "'=1+1")
    assert rows[3]["status"] == "undefeated"
    known = json.loads(table.as_json(board, CARDS, NOW))
    assert known["method"]["anchor"] == ["a", 1200]
    assert known["models"][0]["low"] < 1200 < known["models"][0]["high"]
    assert table.link("x_[y](z)<b>", None) == r"x\_\[y\](z)\<b\>"
    assert "Without the 100 votes that help it most a would still lead." in table.summary(board, NOW)


def traces(figure: go.Figure) -> list[Any]:
    return list(cast("Any", figure.data))


def test_figures_show_the_ranked_best_first() -> None:
    board = rate(TALLY)
    assert list(traces(figures.intervals(board))[0].y) == ["c", "b", "a"]
    won = traces(figures.win_rates(board))[0].z
    assert won[0][1] == pytest.approx(0.7)
    assert won[0][3] == 0  # five battles with d
    assert np.isnan(won[0][4])
    assert traces(figures.battle_counts(board))[0].z[0][1] == 1000
    days = {20_000: {group("a", "b"): 5, group("b", "a"): 5}, 20_001: {group("a", "b"): 50}}
    lines = {line.name: list(line.y) for line in traces(figures.over_time(days))}
    assert lines["a"][0] == pytest.approx(1000)
    assert lines["a"][1] == pytest.approx(1000 + POINTS * np.log(55 / 5) / 2)


def test_figures_of_nothing() -> None:
    for empty in (rate({}), rate({group("a", "b"): 1})):
        for draw in (figures.intervals, figures.win_rates, figures.battle_counts, figures.average_win_rates):
            draw(empty)
    assert traces(figures.over_time({})) == []


def test_a_report_stands_alone_and_takes_names_as_text() -> None:
    evil = "<script>alert(1)</script>"
    tally = {group(evil, "b"): 30, group("b", evil): 20}
    page = report("Board & more", [rate(tally), rate(tally, "no_tie")], {20_000: tally}, CARDS, NOW)
    assert evil not in page
    assert "Board &amp; more" in page
    assert not re.search(r'(?:src|href)="(?!https://example\.org)', page.split("<script>")[0])
    assert "javascript:alert" not in page


class Votes:
    """A source whose votes a test changes."""

    def __init__(self) -> None:
        self.votes: Tally = TALLY
        self.counted = 0
        self.gone = False

    def version(self) -> str:
        if self.gone:
            raise StoreUnavailable("gone")
        return str(sum(self.votes.values()))

    def tally(self) -> Tally:
        self.counted += 1
        return self.votes

    def days(self) -> Mapping[int, Tally]:
        return {20_000: self.votes}

    def ballots(self) -> Ballots:
        return styled_ballots()


def test_a_live_board_counts_a_vote_that_it_is_told_of_long_before_its_time() -> None:
    votes = Votes()
    live = LiveLeaderboard(votes, interval=3600)
    live.start()
    try:
        first = wait_until(lambda: live.board().votes)
        votes.votes = {**TALLY, group("a", "b"): 701}
        live.news()
        assert wait_until(lambda: live.board().votes != first and live.board().votes) == first + 1
    finally:
        live.stop()


def test_a_live_board_counts_when_votes_have_changed() -> None:
    votes, seen = Votes(), list[float]()
    live = LiveLeaderboard(votes, on_counts=lambda counted: seen.append(counted.total))
    assert live.board().standings == ()
    assert live.refresh()
    assert not live.refresh()
    first = live.board()
    assert first is live.board()
    assert live.board(styled=True).styled
    votes.votes = {**TALLY, group("a", "b", marks=",identity,"): 9, group("a", "b", language="de"): 1}
    assert live.refresh()
    assert live.board().votes == first.votes + 1
    assert [category.name for category in live.categories()][:2] == ["overall", "no_tie"]
    assert (votes.counted, seen) == (2, [first.votes, first.votes + 1])
    votes.gone = True
    with pytest.raises(StoreUnavailable):
        live.refresh()
    assert live.board().votes == first.votes + 1
