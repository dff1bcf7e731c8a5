"""The plots of a board, in Plotly: drawn in the browser, where each can also be saved as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from webui.leaderboard.ballots import Tally
from webui.leaderboard.board import Board, BoardRules, rate
from webui.leaderboard.cells import Floats

# On transparent ground in colours that can be read on light and on dark pages.
_TEXT: Final = "#7a7f87"
_GRID: Final = "rgba(128,128,128,0.2)"
_ACCENT: Final = "#3b82f6"
# Red, grey, blue: apart for people who do not tell red from green, and with a middle for an even match.
_DIVERGING: Final = [[0.0, "#d1603d"], [0.5, "#d9dce1"], [1.0, "#2f6fd0"]]
_COUNTS: Final = [[0.0, "rgba(59,130,246,0.06)"], [1.0, "#1e4fa3"]]
# More models than this make plots that nobody can read.
SHOWN: Final = 30
# Fewer battles of a pair than this say nothing about its win rate.
_FEW: Final = 5
_PERIODS: Final = 30


def intervals(board: Board) -> go.Figure:
    """Scores with their intervals, best on top."""
    shown = board.ranked[:SHOWN][::-1]
    scores = np.array([standing.score for standing in shown], float)
    figure = go.Figure(
        go.Scatter(
            x=scores,
            y=[standing.model for standing in shown],
            mode="markers",
            marker={"color": _ACCENT, "size": 9},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.array([standing.high for standing in shown], float) - scores,
                "arrayminus": scores - np.array([standing.low for standing in shown], float),
                "color": _ACCENT,
            },
            hovertemplate="%{y}: %{x:.0f}<extra></extra>",
        )
    )
    return _laid_out(figure, f"Scores with {board.rules.level:.0%} intervals", rows=len(shown))


def win_rates(board: Board) -> go.Figure:
    """How much of the points each model won against each other one; empty where they have hardly met."""
    names, won, battles = _matrices(board)
    won[battles < _FEW] = np.nan
    text = [["" if np.isnan(value) else f"{value:.0%}" for value in row] for row in won.tolist()]
    return _heat_map(names, won, text, "Points won by the model of the row", _DIVERGING)


def battle_counts(board: Board) -> go.Figure:
    """How often each pair has met."""
    names, _, battles = _matrices(board)
    text = [["" if not value else f"{value:.0f}" for value in row] for row in battles.tolist()]
    battles[battles == 0] = np.nan
    return _heat_map(names, battles, text, "Votes of each pair", _COUNTS)


def average_win_rates(board: Board) -> go.Figure:
    """The part of the points that each model won, the mean over its opponents."""
    shown = sorted((s for s in board.standings if s.score is not None), key=lambda s: -(s.won or 0))
    shown = shown[:SHOWN][::-1]
    figure = go.Figure(
        go.Bar(
            x=[standing.won for standing in shown],
            y=[standing.model for standing in shown],
            orientation="h",
            marker={"color": _ACCENT},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    return _laid_out(figure, "Points won, mean over opponents", rows=len(shown))


def over_time(days: Mapping[int, Tally], rules: BoardRules | None = None) -> go.Figure:
    """Scores by the votes up to each day."""
    lines: dict[str, list[tuple[datetime, float]]] = {}
    for day, tally in _cumulated(days):
        for standing in rate(tally, rules=rules, influence=False).standings:
            if standing.score is not None:
                lines.setdefault(standing.model, []).append((datetime.fromtimestamp(day * 86_400, UTC), standing.score))
    best = sorted(lines, key=lambda model: -lines[model][-1][1])[:SHOWN]
    figure = go.Figure(
        [
            go.Scatter(
                x=[when for when, _ in lines[model]],
                y=[score for _, score in lines[model]],
                name=model,
                mode="lines+markers",
                hovertemplate=f"{_plain(model)}: %{{y:.0f}}<extra>%{{x|%Y-%m-%d}}</extra>",
            )
            for model in best
        ]
    )
    return _laid_out(figure, "Scores by all votes up to each day", rows=14)


def elo_history(names: Sequence[str], after: Sequence[int], ratings: Floats) -> go.Figure:
    """Online Elo after so many battles: `ratings` is [P, M]."""
    figure = go.Figure(
        [
            go.Scatter(x=list(after), y=ratings[:, position], name=_plain(name), mode="lines")
            for position, name in enumerate(names[:SHOWN])
        ]
    )
    figure.update_xaxes(title="battles")
    return _laid_out(figure, "Online Elo (K = 4): depends on the order of battles", rows=14)


def _cumulated(days: Mapping[int, Tally]) -> list[tuple[int, Tally]]:
    """The votes up to some of the days, spread evenly over them, the last included."""
    order = sorted(days)
    steps: list[int] = np.linspace(0, len(order) - 1, min(len(order), _PERIODS)).astype(int).tolist()
    picked = {order[step] for step in steps}
    sums: dict[Any, int] = {}
    found: list[tuple[int, Tally]] = []
    for day in order:
        for group, votes in days[day].items():
            sums[group] = sums.get(group, 0) + votes
        if day in picked:
            found.append((day, dict(sums)))
    return found


def _matrices(board: Board) -> tuple[list[str], Floats, Floats]:
    """Names, best first; parts of points won and battles, both [M, M], rows and columns in that order."""
    names = [standing.model for standing in board.standings][:SHOWN]
    order = [board.cells.models.index(name) for name in names]
    counted = board.cells
    size = len(counted.models)
    points = np.zeros((size, size))
    points[counted.first, counted.second] = counted.scores
    points[counted.second, counted.first] = counted.battles - counted.scores
    battles = counted.matrix(counted.battles)
    won = np.divide(points, battles, out=np.full((size, size), np.nan), where=battles > 0)
    return names, won[np.ix_(order, order)], battles[np.ix_(order, order)]


def _heat_map(
    names: list[str], values: Floats, text: list[list[str]], title: str, colours: list[list[Any]]
) -> go.Figure:
    diverging = colours is _DIVERGING
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=names,
            y=names,
            text=text,
            texttemplate="%{text}" if len(names) <= 15 else None,
            colorscale=colours,
            zmin=0,
            zmax=1 if diverging else None,
            xgap=1,
            ygap=1,
            showscale=False,
            hovertemplate="%{y} against %{x}: %{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(side="bottom", tickangle=-40)
    return _laid_out(figure, title, rows=len(names))


def _laid_out(figure: go.Figure, title: str, rows: int) -> go.Figure:
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _TEXT, "family": "system-ui, sans-serif"},
        height=140 + 26 * max(rows, 4),
        margin={"l": 10, "r": 20, "t": 50, "b": 40},
        legend={"orientation": "h"},
    )
    figure.update_xaxes(automargin=True, gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor=_GRID, zeroline=False)
    return figure


def _plain(name: str) -> str:
    """A name as Plotly's templates may hold it."""
    return name.replace("%{", "% {").replace("<", "&lt;")
