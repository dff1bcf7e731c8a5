"""The words of answers on their way to a page: in the form that Gradio's pages take, but past Gradio's server.

Gradio checks and copies a value that grows, and compares the whole of it with what it was, each time that it grows
(Gradio 6.31: 1.4 ms each time, of which a core has no more than 700 in a second). Here a page is told what is appended.
It takes that for news of the event for which it waits, and gets the whole value at the event's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import gradio as gr
import msgspec
from gradio.context import LocalContext
from gradio.processing_utils import (
    add_root_url,  # pyright: ignore[reportUnknownVariableType]  # its types are missing
    async_move_files_to_cache,  # pyright: ignore[reportUnknownVariableType]
)

from webui.battle import LiveBattle
from webui.pages import shown

Messages = list[dict[str, Any]]
# As in gradio_client.utils.apply_diff: what to do, where, with what.
Edit = tuple[str, list[str | int], Any]

_encode: Final = msgspec.json.encode


class Words:
    """What one page knows of the answers in its chats. Made within the event of Gradio for which the page waits."""

    def __init__(self, chats: Sequence[gr.Chatbot], folder: Path) -> None:
        self._event = LocalContext.event_id.get()
        self._sides = [_Side(chat, side, folder) for side, chat in enumerate(chats)]

    async def event(self, battle: LiveBattle) -> bytes:
        """What it does not know yet, as an event of its stream."""
        news = [await side.news(battle) for side in self._sides]
        output = {"data": news, "is_generating": True, "changed_state_ids": []}
        event = {"msg": "process_generating", "event_id": self._event, "output": output, "success": True}
        return b"data: %b\n\n" % _encode(event)


class _Side:
    """What the page knows of one side: the messages of the turn that goes on, after so many of earlier ones."""

    def __init__(self, chat: gr.Chatbot, side: int, folder: Path) -> None:
        self._chat = chat
        self._side = side
        self._folder = folder
        self._known: Messages = []
        self._before = 0

    async def news(self, battle: LiveBattle) -> Messages | list[Edit]:
        """All messages as Gradio sends them, the first time; then edits of them."""
        known, self._known = self._known, shown.exchanged(battle.seen(self._side)[-1], self._folder)
        if known and [_frame(each) for each in known] == [_frame(each) for each in self._known]:
            pairs = zip(known, self._known, strict=True)
            return [edit for place, pair in enumerate(pairs, self._before) for edit in _edits(place, *map(_text, pair))]
        messages = shown.messages(battle, self._side, self._folder)
        self._before = len(messages) - len(self._known)
        value = await _value(self._chat, messages)
        return [("replace", [], value)] if known else value


async def _value(chat: gr.Chatbot, messages: Messages) -> Messages:
    """Messages as Gradio sends them, with files at URLs."""
    posted = chat.postprocess(cast("Any", messages))
    return add_root_url(cast("Any", await async_move_files_to_cache(posted, chat, postprocess=True)), ".", None)


def _frame(message: dict[str, Any]) -> Any:
    """All of a message but its text."""
    return {**message, "content": None}


def _text(message: dict[str, Any]) -> str:
    return message["content"].get("text", "")


def _edits(place: int, known: str, text: str) -> list[Edit]:
    if text == known:
        return []
    where: list[str | int] = [place, "content", 0, "text"]
    return [("append", where, text[len(known) :])] if text.startswith(known) else [("replace", where, text)]
