"""How the pages look: one theme, light and dark, and the frame that all of them have."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

import gradio as gr
from gradio.themes import Base
from gradio.themes.utils.fonts import LocalFont

_FOLDER: Final = Path(__file__).parent
STYLE: Final = _FOLDER / "style.css"
_SCRIPTS: Final = ("stream.js", "keys.js", "labels.js")
# Inline, since the pages load no scripts but Gradio's own.
HEAD: Final = "".join(f"<script>{(_FOLDER / name).read_text()}</script>" for name in _SCRIPTS)

PAGES: Final = (
    ("", "Battle"),
    ("side-by-side", "Side by side"),
    ("direct", "Direct chat"),
    ("leaderboard", "Leaderboard"),
    ("about", "About"),
)


def theme() -> Base:
    """Quiet surfaces and one accent; the colours of the sides are in style.css."""
    return Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
        font_mono=(LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"),
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0f141a",
        block_background_fill="#ffffff",
        block_background_fill_dark="#171e27",
        panel_background_fill="*background_fill_primary",
        panel_background_fill_dark="#0f141a",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="#ffffff",
        body_text_color_subdued="#52606d",
        body_text_color_subdued_dark="#9fb0c0",
        block_info_text_color="#52606d",
        block_info_text_color_dark="#9fb0c0",
        input_placeholder_color="#5b6b7d",
        input_placeholder_color_dark="#8b9cae",
        input_background_fill="#f3f5f8",
        input_background_fill_dark="#10161d",
        table_even_background_fill_dark="#171e27",
        table_odd_background_fill_dark="#10161d",
        table_border_color_dark="#2a3542",
    )


def frame(title: str, here: str, *, benchmark: bool, login: bool) -> None:
    """What stands on top of each page: the name and the way to the other pages, that of a benchmark if there is one.

    With `login` there is the way out, too: of this browser, not of others with the same name.
    """
    pages = [*PAGES, ("benchmark", "Benchmark")] if benchmark else PAGES
    pages = [*pages, ("logout", "Sign out")] if login else pages
    name = dict(pages).get(here, "Shared conversation")
    links = "".join(_link(path, name, here) for path, name in pages)
    gr.HTML(
        f'<header class="frame"><a class="brand" href="./">{escape(title)}</a>'
        f'<nav aria-label="Pages">{links}</nav></header><h1 class="unseen">{name}</h1>',
        elem_classes="frame-block",
        padding=False,
    )


def _link(path: str, name: str, here: str) -> str:
    current = ' aria-current="page"' if path == here else ""
    return f'<a href="./{path}"{current}>{name}</a>'
