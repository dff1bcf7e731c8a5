"""The parameters of answers, where the models have names; battles have the arena's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from webui.config import WebConfig

_NAMES = ("temperature", "top_p", "max_tokens")
_MOST_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Parameters:
    """The sliders."""

    sliders: tuple[gr.Slider, ...]

    def chosen(self, values: Sequence[float]) -> dict[str, float]:
        """The parameters by name, from the sliders' values."""
        return dict(zip(_NAMES, values, strict=True))


def parameters(config: WebConfig) -> Parameters:
    """Draw them, folded away."""
    most = max(_MOST_TOKENS, config.max_tokens)
    with gr.Accordion("Parameters", open=False, elem_classes="parameters"), gr.Row():
        return Parameters(
            (
                gr.Slider(0, 2, config.temperature, step=0.05, label="Temperature", info="0 is always the likeliest"),
                gr.Slider(0, 1, config.top_p, step=0.05, label="Top p", info="The share of likely tokens"),
                gr.Slider(1, most, config.max_tokens, step=1, label="Most tokens", info="Of one answer"),
            )
        )
