"""A mesh on a real model that loads in no time: random weights, one token per byte."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from tests.harness import Mesh
from tests.model import tiny

MODEL = "tiny"
CONTEXT = 1024
KV_TOKENS = 512


@functools.cache
def model_folder() -> str:
    """The model on disk; made once, and for so long as this process lives."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-model-")
    _folders.append(folder)
    return tiny.save(Path(folder.name), "Llama", max_position_embeddings=CONTEXT)[0]


_folders: list[tempfile.TemporaryDirectory[str]] = []


def tiny_args(*more: str) -> tuple[str, ...]:
    """Arguments of a worker that serves it."""
    return ("--model-path", model_folder(), "--model-name", MODEL, "--threads", "1", *more)


def tiny_mesh(folder: Path, *gateway_args: str, workers: int = 1, worker_args: tuple[str, ...] = ()) -> Mesh:
    """A mesh that serves it, with a KV pool of KV_TOKENS, half of the context."""
    return Mesh(
        folder,
        workers=workers,
        worker_args=tiny_args("--kv-cache-tokens", str(KV_TOKENS), *worker_args),
        gateway_args=gateway_args,
        model=MODEL,
    )
