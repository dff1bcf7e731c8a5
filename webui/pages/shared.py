"""A conversation that somebody shared, to be read by whoever has its link."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.battle import LiveBattle
from webui.pages import shown
from webui.pages.chat import chatbot
from webui.pages.desk import TOLD, Desk, sentence

_UNKNOWN = "There is no such conversation: the link is incomplete, or its conversation was deleted."


def build(desk: Desk, blocks: gr.Blocks) -> None:
    """Draw the page."""
    status = gr.HTML("", elem_id="shared-status", elem_classes="status")
    with gr.Row(elem_classes="sides", equal_height=True):
        columns: list[gr.Column] = []
        heads: list[gr.HTML] = []
        chats: list[gr.Chatbot] = []
        for letter in "ab":
            with gr.Column(min_width=300, visible=False, elem_classes=["side", f"side-{letter}"]) as column:
                heads.append(gr.HTML("", elem_id=f"shared-head-{letter}"))
                chats.append(chatbot(f"shared-chat-{letter}", f"Answers of model {letter.upper()}"))
            columns.append(column)

    async def load(request: gr.Request) -> dict[Block, Any]:
        try:
            found = await asyncio.to_thread(desk.arena.store.shared, _key(request))
        except TOLD as error:
            return {status: sentence(error)}
        if found is None:
            return {status: _UNKNOWN}
        battle = LiveBattle(found.battle, turns=list(found.turns), vote=found.vote)
        view: dict[Block, Any] = {status: shown.verdict(battle)}
        for side in range(len(found.battle.models)):
            view[columns[side]] = gr.update(visible=True)
            view[heads[side]] = shown.head(battle, side, desk.cards)
            view[chats[side]] = shown.messages(battle, side, desk.folder)
        return view

    blocks.load(load, None, [status, *columns, *heads, *chats], show_progress="hidden", api_visibility="private")


def _key(request: gr.Request) -> str:
    """The key of the page's address; the request that asks for its content has it in its query too."""
    return request.request.query_params.get("key", "") if request.request else ""
