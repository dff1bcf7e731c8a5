"""Everything that `mesh train sft` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import TrainingArguments

from training.sft.options import SftOptions


@dataclass
class SftSettings(SftOptions, TrainingArguments):
    """Its own settings on the trainer's, whose defaults they replace."""
