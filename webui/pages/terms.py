"""The terms that visitors agree to before their first prompt, where there are some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.records import Terms


@dataclass(frozen=True, slots=True)
class TermsPanel:
    """The terms with their button, and the page that is shown in their place once a visitor has agreed."""

    panel: gr.Column
    agree: gr.Button
    page: gr.Column

    def shown(self, agreed: bool) -> dict[Block, Any]:
        """The page of a visitor who has agreed, or has not."""
        return {self.panel: gr.update(visible=not agreed), self.page: gr.update(visible=agreed)}


def draw_terms(terms: Terms, name: str) -> TermsPanel:
    """Draw them. `name` begins the ids of the elements; what they stand before goes into `page`."""
    with gr.Column(visible=False, elem_id=f"{name}-terms", elem_classes="terms") as panel:
        gr.Markdown(terms.text, elem_classes="prose-page")
        agree = gr.Button("I have read this, and agree", variant="primary", elem_id=f"{name}-agree")
    with gr.Column(visible=False, elem_classes="talk") as page:
        pass
    return TermsPanel(panel, agree, page)
