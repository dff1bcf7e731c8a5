"""What `mesh train dpo` can be told besides the trainers' own arguments."""

from __future__ import annotations

from argparse import SUPPRESS
from dataclasses import dataclass
from typing import Any

from training.settings import ModelSettings, setting


@dataclass
class DpoOptions(ModelSettings):
    """Train a model to prefer the better of two answers to the same prompt: the whole model, or an adapter of it."""

    data_path: list[str] = setting(
        [], "Files of preferences, each with prompt, chosen and rejected: JSON lines, JSON or Parquet."
    )
    eval_data_path: list[str] = setting([], "Files of preferences to evaluate on.")
    eval_ratio: float = setting(0.0, "Share of the preferences that is kept back and evaluated on.")
    max_samples: int | None = setting(None, "Use the first so many preferences.")
    lora_dropout: float = setting(0.0, "Dropout before the adapter; it needs --disable-dropout false.")
    learning_rate: float = setting(1e-6, "Highest learning rate.")
    beta: float = setting(0.1, "How close the model stays to what it was: the higher, the closer.")
    loss_type: list[str] = setting(["sigmoid"], "Losses of TRL's DPO, summed: sigmoid, hinge, ipo, sft and more.")
    logging_steps: float = setting(10, "Steps between two lines of progress.")
    bf16: bool | None = setting(False, "Compute in bfloat16.")
    max_length: int | None = setting(None, SUPPRESS)
    truncation_mode: str = setting("keep_start", SUPPRESS)
    padding_free: bool = setting(False, SUPPRESS)
    pad_to_multiple_of: int | str | None = setting(None, SUPPRESS)
    pad_token: str | None = setting(None, SUPPRESS)
    model_init_kwargs: dict[str, Any] | str | None = setting(None, SUPPRESS)
    trust_remote_code: bool = setting(False, SUPPRESS)
    dataset_num_proc: int | None = setting(None, SUPPRESS)
    remove_unused_columns: bool = setting(False, SUPPRESS)  # rows know which columns they need
    resume_from_checkpoint: str | None = setting(
        "auto", "A checkpoint's folder; auto: the last one in the output folder, if any; none: begin anew."
    )
