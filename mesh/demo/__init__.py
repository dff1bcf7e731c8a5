"""The demonstration model that comes with the mesh; `training/demo` is its recipe, `model/MODEL_CARD.md` its card."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """The folder with the shipped model, in the layout of Hugging Face transformers."""
    return Path(__file__).resolve().parent / "model"
