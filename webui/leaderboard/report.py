"""A leaderboard as one HTML file: no server, no request to anywhere, plots drawn by the Plotly that it carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Final

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from webui.leaderboard import figures, table
from webui.leaderboard.ballots import Ballots, Tally
from webui.leaderboard.board import Board, Standing
from webui.leaderboard.categories import CATEGORIES
from webui.leaderboard.elo import history
from webui.records import ModelCard

_STYLE: Final = """
:root { color-scheme: light dark; --line: #d9dce1; --quiet: #5f6570; --accent: #1d5fd0; }
@media (prefers-color-scheme: dark) { :root { --line: #3a3f47; --quiet: #a3a9b3; --accent: #7db0ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; } p.note { color: var(--quiet); margin-top: 0; } a { color: var(--accent); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible, nav label:has(:focus-visible) { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0; }
nav label { border: 1px solid var(--line); border-radius: 1rem; padding: .15rem .8rem; cursor: pointer; }
nav input { position: absolute; opacity: 0; }
nav label:has(:checked) { border-color: var(--accent); color: var(--accent); }
"""
# Sorting and switching; everything is there without it, too, one table below the other.
_SCRIPT: Final = """
for (const head of document.querySelectorAll('th button')) head.onclick = () => {
  const cell = head.parentElement, rows = cell.closest('table').tBodies[0], column = cell.cellIndex;
  const down = cell.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
  for (const other of cell.parentElement.cells) other.removeAttribute('aria-sort');
  cell.setAttribute('aria-sort', down === 1 ? 'ascending' : 'descending');
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === '' || y === '') return (x === '') - (y === '');
    return down * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  };
  rows.append(...[...rows.rows].sort(order));
};
const boards = [...document.querySelectorAll('section.board')];
const choose = name => boards.forEach(board => board.hidden = board.id !== name);
for (const input of document.querySelectorAll('nav input')) input.onchange = () => choose(input.value);
if (boards.length) choose(boards[0].id);
"""


def report(
    title: str,
    boards: Sequence[Board],
    days: Mapping[int, Tally],
    cards: Mapping[str, ModelCard],
    as_of: datetime,
    ballots: Ballots | None = None,
) -> str:
    """The page. The first of the boards is shown first, and drawn; so is what online Elo makes of the `ballots`."""
    main = boards[0]
    drawn = [
        figures.intervals(main),
        figures.win_rates(main),
        figures.battle_counts(main),
        figures.average_win_rates(main),
        figures.over_time(days, main.rules),
    ]
    if ballots is not None and len(ballots.group):
        models, told = history(ballots)
        drawn.append(figures.elo_history(models, told.after.tolist(), told.ratings))
    method = (
        "Scores are those of a Bradley–Terry model on Elo's scale (400 points are odds of 10 to 1), a tie being half a "
        "win. A rank is one more than the number of models whose interval lies wholly above."
    )
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head><body><main>",
            f'<h1>{escape(title)}</h1><p class="note">{method}</p>',
            _switches(boards),
            *(_section(board, cards, as_of) for board in boards),
            f"<h2>{escape(CATEGORIES[main.category].title)} in plots</h2>",
            f"<script>{get_plotlyjs()}</script>",
            *(_plot(figure) for figure in drawn if figure.data),
            f"</main><script>{_SCRIPT}</script></body></html>",
        ]
    )


def _switches(boards: Sequence[Board]) -> str:
    options = [
        f'<label><input type="radio" name="board" value="{_anchor(board)}"{" checked" if board is boards[0] else ""}>'
        f"{escape(_title(board))}</label>"
        for board in boards
    ]
    return f'<nav aria-label="Boards">{"".join(options)}</nav>' if len(boards) > 1 else ""


def _section(board: Board, cards: Mapping[str, ModelCard], as_of: datetime) -> str:
    head = "".join(
        f'<th scope="col"{_number(kind)}><button type="button">{name}</button></th>'
        for name, kind in zip(table.HEADERS, table.TYPES, strict=True)
    )
    body = "\n".join(
        _row(standing, row, cards.get(standing.model))
        for standing, row in zip(board.standings, table.rows(board, cards), strict=True)
    )
    return (
        f'<section class="board" id="{_anchor(board)}"><h2>{escape(_title(board))}</h2>'
        f'<p class="note">{escape(table.summary(board, as_of))}</p><div class="wide">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _row(standing: Standing, row: Sequence[object], card: ModelCard | None) -> str:
    values = list(row)
    cells = [
        f"<td{_number(kind)}>{escape('' if v is None else str(v))}</td>"
        for v, kind in zip(values, table.TYPES, strict=True)
    ]
    cells[1] = f"<td>{_linked(standing.model, card)}</td>"
    cells[4] = f'<td class="number" data-value="{standing.votes}">{standing.votes:,}</td>'
    return f"<tr>{''.join(cells)}</tr>"


def _linked(model: str, card: ModelCard | None) -> str:
    name = escape(model)
    if card is None or not table.safe_link(card.link):
        return name
    return f'<a href="{escape(card.link)}" rel="noreferrer">{name}</a>'


def _plot(figure: go.Figure) -> str:
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return f"<figure>{html}</figure>"


def _number(kind: str) -> str:
    return ' class="number"' if kind == "number" else ""


def _title(board: Board) -> str:
    return CATEGORIES[board.category].title + (", at equal style" if board.styled else "")


def _anchor(board: Board) -> str:
    return board.category + ("_styled" if board.styled else "")
