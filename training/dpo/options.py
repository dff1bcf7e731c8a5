"""What `mesh train dpo` can be told besides the arguments of transformers' Trainer and of TRL's DPOTrainer."""

from __future__ import annotations

from argparse import SUPPRESS
from dataclasses import dataclass, fields
from typing import Any, Final

from trl.trainer.dpo_config import DPOConfig

from training.settings import BadSettings, ModelSettings, setting

_UNUSED: Final = {
    "truncation_mode": "of pairs that are too long the beginning is kept",
    "padding_free": "each answer is a row of its own",
    "pad_to_multiple_of": "rows are as long as the longest one",
    "pad_token": "it is the tokenizer's",
    "model_init_kwargs": "use --dtype and --attn-implementation",
    "trust_remote_code": "models with code of their own are not trained",
    "dataset_num_proc": "pairs are tokenised by one process",
}
"""Settings of TRL's trainer that have no meaning here, because of what has."""


@dataclass
class DpoSettings(ModelSettings, DPOConfig):
    """Train a model to prefer the better of two answers to the same prompt: the whole model, or an adapter of it."""

    data_path: list[str] = setting(
        [], "Files of preferences, each with prompt, chosen and rejected: JSON lines, JSON or Parquet."
    )
    eval_data_path: list[str] = setting([], "Files of preferences to evaluate on.")
    eval_ratio: float = setting(0.0, "Share of the preferences that is kept back and evaluated on.")
    max_samples: int | None = setting(None, "Use the first so many preferences.")
    bf16: bool | None = setting(False, "Compute in bfloat16.")
    max_length: int | None = setting(None, SUPPRESS)
    truncation_mode: str = setting("keep_start", SUPPRESS)
    padding_free: bool = setting(False, SUPPRESS)
    pad_to_multiple_of: int | str | None = setting(None, SUPPRESS)
    pad_token: str | None = setting(None, SUPPRESS)
    model_init_kwargs: dict[str, Any] | str | None = setting(None, SUPPRESS)
    trust_remote_code: bool = setting(False, SUPPRESS)
    dataset_num_proc: int | None = setting(None, SUPPRESS)
    # transformers has another name for it, and warns where this one has a value.
    gradient_checkpointing: bool | None = setting(None, SUPPRESS)  # pyright: ignore[reportIncompatibleVariableOverride]
    remove_unused_columns: bool = setting(False, "Left to the commands: rows know which columns they need.")
    resume_from_checkpoint: str | None = setting(
        "auto", "A checkpoint's folder; auto: the last one in the output folder, if any; none: begin anew."
    )

    def check(self) -> None:
        """Raises BadSettings for what cannot be honoured."""
        for field in fields(self):
            if field.name in _UNUSED and getattr(self, field.name) != field.default:
                raise BadSettings(f"{field.name} cannot be used: {_UNUSED[field.name]}")
        if not self.data_path:
            raise BadSettings("--data is required")
        if self.eval_data_path and self.eval_ratio:
            raise BadSettings("--eval-ratio and --eval-data exclude each other")
        if not 0 <= self.eval_ratio < 1:
            raise BadSettings(f"--eval-ratio must be at least 0 and below 1, not {self.eval_ratio}")
        if self.eval_strategy != "no" and not (self.eval_data_path or self.eval_ratio):
            raise BadSettings("--eval-strategy needs preferences to evaluate on: --eval-data or --eval-ratio")
        if self.fsdp and self.device.type == "cpu":
            raise BadSettings("--fsdp cannot be used on CPUs with preferences")
