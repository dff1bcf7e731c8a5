"""The conversation as a component, and what happens when somebody likes an answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Literal, cast

import gradio as gr

from webui.pages.desk import TOLD, Desk, sentence
from webui.pages.shown import turn_at
from webui.records import Reaction

# A single $ is a price more often than a formula.
_LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": r"\[", "right": r"\]", "display": True},
    {"left": r"\(", "right": r"\)", "display": False},
]


_REACTIONS: dict[bool | None, Reaction] = {True: "like", False: "dislike"}


def chatbot(name: str, label: str, placeholder: str = "") -> gr.Chatbot:
    """A conversation. What models write is Markdown that cannot do anything: no tags of its own, no files."""
    return gr.Chatbot(
        label=label,
        show_label=False,
        elem_id=name,
        height="max(46vh, 280px)",
        buttons=["copy"],
        layout="panel",
        latex_delimiters=_LATEX,
        sanitize_html=True,
        allow_tags=False,
        allow_file_downloads=False,
        placeholder=placeholder,
    )


def liking(desk: Desk, side: int) -> Callable[[str | None, gr.Request, gr.LikeData], Coroutine[None, None, None]]:
    """The handler that keeps what somebody thinks of one answer of a side."""
    letter: Literal["a", "b"] = "b" if side else "a"

    async def liked(state: str | None, request: gr.Request, event: gr.LikeData) -> None:
        try:
            battle = desk.arena.find(await desk.visitor(request), state)
            index = event.index if isinstance(event.index, int) else event.index[0]
            turn = turn_at(battle.seen(side), index) if battle else None
            if battle is not None and turn is not None:
                await desk.arena.react(battle, turn, letter, _REACTIONS.get(cast("bool | None", event.liked)))
        except TOLD as error:
            gr.Warning(sentence(error))

    return liked
