"""The demonstration models that come with the mesh, and an adapter; `training/demo` is their recipe, each has its
MODEL_CARD.md."""

from __future__ import annotations

from pathlib import Path

MODELS = ("mesh-demo", "mesh-demo-mini")
"""Their names, the better one first: two, so that there is something to compare."""
ADAPTERS = ("mesh-demo-sailor",)
"""LoRA adapters of the first one: it answers in another manner."""


def model_path(name: str = MODELS[0]) -> Path:
    """The folder with the shipped model, in the layout of Hugging Face transformers."""
    return Path(__file__).resolve().parent / "models" / name


def adapter_path(name: str = ADAPTERS[0]) -> Path:
    """The folder with the shipped adapter, in PEFT's layout."""
    return Path(__file__).resolve().parent / "adapters" / name
