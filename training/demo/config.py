"""What `mesh train demo` can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

from mesh.config import ConfigError, option

ENV_PREFIX: Final = "MESH_DEMO_"
_OF_TRAINING: Final = ("seed", "device", "conversations", "steps", "rows", "checkpoints")
_OF_EXAMINATION: Final = ("questions",)


@dataclass(frozen=True)
class DemoConfig:
    """Make a demonstration model from nothing, examine it, and write its card."""

    model: Literal["mesh-demo", "mesh-demo-mini"] = option("mesh-demo", "Which one.")
    output: Path | None = option(None, "Its folder. Default: where the shipped one is.")
    seed: int = option(1, "Of conversations and weights.")
    device: Literal["cpu", "cuda"] = option("cpu", "What to train on.")
    conversations: int | None = option(None, "Conversations to write. Default: 36000; on cuda 1500000.", low=1)
    steps: int | None = option(None, "Steps of training. Default: 3000; on cuda 5000.", low=1)
    rows: int | None = option(None, "Rows of 640 tokens in each step. Default: 2; on cuda 96.", low=1)
    threads: int = option(1, "Threads of torch.", low=1)
    jobs: int | None = option(None, "Processes that write. Default: as many as there are cores.", low=1)
    checkpoints: Path | None = option(None, "Save the model here after every tenth of the steps.")
    eval: bool = option(True, "Examine the model and write its card.")
    eval_only: bool = option(False, "Examine the model that is there, and change nothing.")
    questions: int = option(80, "Conversations of each writer that the examination has.", low=1)

    def __post_init__(self) -> None:
        if self.eval_only and not self.eval:
            raise ConfigError("--eval-only and --no-eval exclude each other")
        if self.eval_only:
            self._refuse(_OF_TRAINING, "--eval-only, which trains nothing")
        if not self.eval:
            self._refuse(_OF_EXAMINATION, "--no-eval")

    def _refuse(self, names: Sequence[str], where: str) -> None:
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise ConfigError(f"--{field.name} has no effect with {where}")
