"""Everything that `mesh train dpo` can be told."""

from __future__ import annotations

from argparse import SUPPRESS
from dataclasses import dataclass, fields
from typing import Final

from trl.trainer.dpo_config import DPOConfig

from training.dpo.options import DpoOptions
from training.settings import BadSettings, setting

_UNUSED: Final = {
    "truncation_mode": "of pairs that are too long the beginning is kept",
    "padding_free": "each answer is a row of its own",
    "pad_to_multiple_of": "rows are as long as the longest one",
    "pad_token": "it is the tokenizer's",
    "model_init_kwargs": "use --dtype and --attn-implementation",
    "trust_remote_code": "models with code of their own are not trained",
    "remove_unused_columns": "batches are made of columns of their own",
    "dataset_num_proc": "pairs are tokenised by one process",
}
"""Settings of TRL's trainer that have no meaning here, because of what has."""


@dataclass
class DpoSettings(DpoOptions, DPOConfig):
    """Its own settings on those of transformers' Trainer and of TRL's DPOTrainer, whose defaults they replace."""

    # transformers has another name for it, and warns where this one has a value.
    gradient_checkpointing: bool | None = setting(None, SUPPRESS)  # pyright: ignore[reportIncompatibleVariableOverride]

    def check(self) -> None:
        """Raises BadSettings for what cannot be honoured."""
        for field in fields(self):
            if field.name in _UNUSED and getattr(self, field.name) != field.default:
                raise BadSettings(f"{field.name} cannot be used: {_UNUSED[field.name]}")
        if self.lora_dropout and self.disable_dropout:
            raise BadSettings("--lora-dropout has no effect but with --disable-dropout false")
        if self.lora_bias != "none":
            raise BadSettings(
                "--lora-bias cannot be used with preferences: the model without the adapter must stay as it was"
            )
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
