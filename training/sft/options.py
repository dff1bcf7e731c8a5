"""What `mesh train sft` can be told besides the trainer's own arguments."""

from __future__ import annotations

from argparse import SUPPRESS
from dataclasses import dataclass
from typing import Literal

from training.settings import ModelSettings, setting


@dataclass
class SftOptions(ModelSettings):
    """Train a model on the answers of conversations: whole, or an adapter of it."""

    data_path: list[str] = setting(
        [],
        "Files of conversations: JSON lines, JSON or Parquet, in OpenAI's, ShareGPT's, FastChat's or Alpaca's shape.",
    )
    eval_data_path: list[str] = setting([], "Files of conversations to evaluate on.")
    eval_ratio: float = setting(0.0, "Share of the conversations that is kept back and evaluated on.")
    max_samples: int | None = setting(None, "Train on the first so many conversations.")
    answers: Literal["all", "last"] = setting("all", "Which answers of a conversation are trained on.")
    packing: bool = setting(
        False, "Several conversations in a row of model_max_length tokens, none of which sees the others."
    )
    num_proc: int = setting(1, "Processes that tokenise.")
    learning_rate: float = setting(2e-5, "Highest learning rate.")
    lr_scheduler_type: str = setting("cosine", "Course of the learning rate.")
    warmup_steps: float = setting(0.03, "Steps, or if below 1 the share of all, in which the learning rate rises.")
    logging_steps: float = setting(10, "Steps between two lines of progress.")
    remove_unused_columns: bool = setting(False, SUPPRESS)  # rows know which columns they need
    resume_from_checkpoint: str | None = setting(
        "auto", "A checkpoint's folder; auto: the last one in the output folder, if any; none: begin anew."
    )
