"""What the arena is, its rules, and what becomes of what people write."""

from __future__ import annotations

from typing import Final

import gradio as gr

from webui.pages.desk import TOLD, Desk, sentence

_RULES: Final = """
## How a battle goes

1. Write a prompt. Two models, drawn at random and unknown to you, answer side by side.
2. Read both answers, and go on with the talk if you like.
3. Vote: **A is better**, **B is better**, **tie**, or **both are bad**. Only then you are told who A and B are, and how
   fast they were. A battle has one vote.

Both answers appear at the same pace, that of the slower one, so that speed does not give a model away. If a side fails,
have it answer again or begin a new battle: nothing is counted. A vote should be about the answers alone; one that asks
the models for their names is marked, and does not count.

**Side by side** compares two models of your choice and **direct chat** is with one: neither counts for the leaderboard.

| key | what it does, unless you are writing (there with Alt) |
|---|---|
| A, B, T, X | vote for A, for B, a tie, both bad |
| N | a new battle |
| Esc | leave the text box |

## What is kept

Prompts, answers, images (without their metadata) and votes are kept to rate the models, and may be published for
research. So **write nothing private**. With them goes a scrambled number, made from a cookie of your browser, or from
the name that you have signed in with, so that votes of one person can be told to be of one person; network addresses
are not kept.

Answers are written by models: they may be wrong, and they may offend.
"""
_NUMBER: Final = (
    "The number that is kept with what you write here is `{voter}`. Who runs this arena can delete all that has it if "
    "you ask for it."
)


def build(desk: Desk, blocks: gr.Blocks) -> None:
    """Draw the page: the arena's own rules, what who runs it adds, and what the visitor is called in the store."""
    gr.Markdown(_RULES, elem_id="about", elem_classes="prose-page")
    number = gr.Markdown("", elem_id="about-number", elem_classes="prose-page")
    if desk.arena.terms is not None:
        gr.Markdown(desk.arena.terms.text, elem_id="terms", elem_classes="prose-page")
    if desk.config.rules is not None:
        gr.Markdown(desk.config.rules.read_text(), elem_id="rules", elem_classes="prose-page")

    async def tell(request: gr.Request) -> str:
        try:
            return _NUMBER.format(voter=(await desk.visitor(request)).voter)
        except TOLD as error:
            return sentence(error)

    blocks.load(tell, outputs=number, show_progress="hidden", concurrency_limit=None, api_visibility="private")
