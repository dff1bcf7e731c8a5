"""Where a prompt is written: a text box with its buttons, and a panel for an image from a file, the clipboard, a camera
or the samples of the project."""

from __future__ import annotations

import contextlib
import filecmp
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from webui.records import Refused
from webui.samples import SAMPLES, sample_file
from webui.trust.images import ImageLimits

# No upload is larger; see webui/trust for the limits of what is let in.
MAX_UPLOAD = ImageLimits().bytes


class Image(gr.Image):
    """An image as it was uploaded: nothing has opened it, so that what is none is refused by us, in words."""

    # Gradio writes a stub of every component beside its module, unless the stub is there. Of this one it is.
    __module__ = gr.Image.__module__
    EVENTS = gr.Image.EVENTS

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the file."""
        return payload.path if payload else None


@dataclass(frozen=True, slots=True)
class Composer:
    """The components of the box."""

    text: gr.Textbox
    panel: gr.Accordion
    image: gr.Image


def composer(name: str, placeholder: str, folder: Path) -> Composer:
    """Draw it. `name` begins the ids of its elements; the samples lie in the folder."""
    text = gr.Textbox(
        label="Your prompt",
        show_label=False,
        placeholder=placeholder,
        lines=1,
        max_lines=10,
        submit_btn="Send",
        stop_btn=False,
        # Until the page has been told what goes on: that would come over a prompt which was sent before.
        interactive=False,
        elem_id=f"{name}-prompt",
        elem_classes="prompt",
    )
    with gr.Accordion("Show an image", open=False, visible=False, elem_id=f"{name}-images") as panel:
        image = Image(
            label="Image",
            type="filepath",
            sources=["upload", "clipboard", "webcam"],
            height=240,
            buttons=[],
            elem_id=f"{name}-image",
        )
        with gr.Row(elem_classes="samples"):
            for sample in SAMPLES:
                button = gr.Button(sample.title, size="sm", variant="secondary")
                chosen = (sample.question, str(sample_file(sample, folder)))
                button.click(
                    partial(_same, chosen),
                    outputs=[text, image],
                    show_progress="hidden",
                    concurrency_limit=None,
                    api_visibility="private",
                )
    return Composer(text, panel, image)


def read_upload(path: str | None) -> list[bytes]:
    """The bytes of an upload. Raises Refused if it is gone: who uploads what another visitor does shares its file."""
    try:
        return [Path(path).read_bytes()] if path else []
    except FileNotFoundError:
        raise Refused("The image is not here any more: take it out and choose it again.") from None


def delete_upload(path: str | None, folder: Path) -> None:
    """An upload is not kept as it came: what it says beside its pixels is nobody's business. Samples, of which Gradio
    has one copy for all visitors, stay; `folder` has them."""
    if path:
        with contextlib.suppress(OSError):
            if not _is_sample(Path(path), folder):
                Path(path).unlink()


def _is_sample(path: Path, folder: Path) -> bool:
    files = {sample_file(sample, folder) for sample in SAMPLES}
    return folder / path.name in files and filecmp.cmp(path, folder / path.name, shallow=False)


def _same(chosen: tuple[str, str]) -> tuple[str, str]:
    return chosen


def box_buttons(answering: bool) -> dict[str, Any]:
    """The buttons in the box: one to send, or one to stop."""
    return {"submit_btn": False if answering else "Send", "stop_btn": "Stop" if answering else False}
