"""Flags of engines that load a model themselves: which one, where it runs, in which number format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.config import option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class ModelFlags(Flags):
    """What is loaded, and how."""

    engines = frozenset({"transformers"})

    model_path: tuple[str, ...] = option(
        (), "Folder with a Hugging Face model, or its name on the hub; repeated for several models in this worker."
    )
    revision: str | None = option(None, "Revision of a model on the hub.")
    trust_remote_code: bool = option(False, "Run the Python code that comes with the model.")
    device: str = option("auto", "Where to run: auto, cpu, cuda or cuda:N.")
    dtype: str = option("auto", "Number format of the weights: auto, float32, bfloat16 or float16.")
    threads: int | None = option(None, "Threads of CPU computation. Default: the cores this process may use.", low=1)
    chat_template: Path | None = option(None, "File with a jinja chat template to use instead of the model's own.")
    allow_chat_templates: bool = option(
        False,
        "Let requests bring chat templates of their own. These are programs: one can loop without end or take all "
        "memory, so allow them only where all clients are trusted.",
    )
