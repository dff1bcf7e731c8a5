"""The leaderboard: a table that can be sorted, plots, and both as files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import gradio as gr
import plotly.graph_objects as go
from gradio.blocks import Block, BlockContext
from gradio.components import Component

from webui.leaderboard import figures, table
from webui.leaderboard.board import Board
from webui.leaderboard.categories import OVERALL
from webui.leaderboard.live import LiveLeaderboard
from webui.pages.desk import TOLD, Desk, sentence

_PLOTS: Final[tuple[tuple[str, Callable[[Board], go.Figure]], ...]] = (
    ("Intervals", figures.intervals),
    ("Win rates", figures.win_rates),
    ("Battles", figures.battle_counts),
    ("Averages", figures.average_win_rates),
)
_REFRESH_SECONDS: Final = 30
# Plotly's own button, which shows only under a mouse: of the plot that can be seen.
_SAVE: Final = """() => [...document.querySelectorAll('.js-plotly-plot')].find(plot => plot.offsetParent)
    ?.querySelector('.modebar-btn[data-title^="Download plot"]')?.click()"""
_EMPTY: Final = "Nobody has voted yet. The first battle is yours: [begin one](./)."


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The components of the page, and what they show."""

    desk: Desk
    live: LiveLeaderboard
    category: gr.Dropdown
    styled: gr.Checkbox
    summary: gr.Markdown
    rows: gr.Dataframe
    plots: tuple[gr.Plot, ...]  # of the board, then the one over time
    files: tuple[gr.DownloadButton, gr.DownloadButton]
    content: gr.Column  # all that there is to see once there are votes
    drawn: gr.Column  # the plots, once a model is ranked

    @property
    def outputs(self) -> list[Component | BlockContext]:
        """All that is shown."""
        return [self.category, self.summary, self.rows, *self.plots, *self.files, self.content, self.drawn]

    async def show(self, category: str, styled: bool) -> dict[Block, Any]:
        """The board of a category, as of the last count."""
        try:
            board = await asyncio.to_thread(self.live.board, category or OVERALL, styled=styled)
        except TOLD as error:
            return {self.summary: sentence(error)}
        if not board.votes:
            return {self.summary: _EMPTY, self.content: gr.update(visible=False)}
        as_of = self.live.as_of
        drawn = [draw(board) for _, draw in _PLOTS] + [figures.over_time(self.live.days(), board.rules)]
        choices = [(each.title, each.name) for each in self.live.categories()]
        return {
            self.content: gr.update(visible=True),
            self.drawn: gr.update(visible=bool(board.ranked)),
            self.category: gr.update(choices=choices),
            self.summary: table.summary(board, as_of),
            self.rows: table.rows(board, self.desk.cards),
            **dict(zip(self.plots, drawn, strict=True)),
            **dict(zip(self.files, self._files(board, as_of), strict=True)),
        }

    def _files(self, board: Board, as_of: datetime) -> list[str]:
        """The files behind the buttons, one set for each board that was asked for."""
        name = re.sub(r"\W", "-", board.category) + ("-style" if board.styled else "")
        paths = [self.desk.folder / f"leaderboard-{name}.{kind}" for kind in ("csv", "json")]
        texts = [table.as_csv(board, self.desk.cards), table.as_json(board, self.desk.cards, as_of)]
        for path, text in zip(paths, texts, strict=True):
            _replace(path, text)
        return [str(path) for path in paths]


def _replace(path: Path, text: str) -> None:
    """Write a file that somebody may be reading."""
    fresh = path.with_suffix(f"{path.suffix}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def build(desk: Desk, blocks: gr.Blocks, live: LiveLeaderboard) -> None:
    """Draw the page."""
    summary = gr.Markdown("", elem_id="leaderboard", elem_classes="summary")
    with gr.Column(visible=False) as content:
        with gr.Row(elem_classes="switches"):
            category = gr.Dropdown(
                label="Category", choices=[("Overall", OVERALL)], value=OVERALL, elem_id="leaderboard-category"
            )
            styled = gr.Checkbox(
                label="At equal style", info="Takes out the effect of length and Markdown", elem_id="leaderboard-style"
            )
        rows = gr.Dataframe(
            headers=list(table.HEADERS),
            datatype=list(table.TYPES),
            interactive=False,
            wrap=False,
            show_label=False,
            max_height=640,
            buttons=[],
            show_search="none",
            elem_id="leaderboard-table",
        )
        with gr.Row(elem_classes="tools"):
            files = (gr.DownloadButton("CSV", size="sm"), gr.DownloadButton("JSON", size="sm"))
        plots: list[gr.Plot] = []
        with gr.Column(visible=False) as drawn_column, gr.Tabs():
            for title in [title for title, _ in _PLOTS] + ["Over time"]:
                with gr.Tab(title):
                    plots.append(gr.Plot(show_label=False, container=False))
                    with gr.Row(elem_classes="tools"):
                        gr.Button("PNG", size="sm", elem_classes="png").click(None, js=_SAVE, api_visibility="private")
    page = Leaderboard(desk, live, category, styled, summary, rows, tuple(plots), files, content, drawn_column)
    shown: dict[str, Any] = {
        "fn": page.show,
        "inputs": [category, styled],
        "outputs": page.outputs,
        "show_progress": "hidden",
        "concurrency_limit": None,
        "api_visibility": "private",
    }
    blocks.load(**shown)
    category.input(**shown)
    styled.input(**shown)
    gr.Timer(_REFRESH_SECONDS).tick(**shown)
