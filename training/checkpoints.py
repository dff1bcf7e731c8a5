"""Where a run that was stopped goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.settings import BadSettings

_STATE: Final = "trainer_state.json"
"""Written last: a checkpoint without it was being saved when the run was killed."""


def checkpoint_of(settings: TrainingArguments) -> str | None:
    """The checkpoint to go on from: the one that is named, or with `auto` the newest in the output folder; else None.

    Raises BadSettings if what is named is no checkpoint.
    """
    wanted = settings.resume_from_checkpoint
    if wanted in (None, "none"):
        return None
    if wanted != "auto":
        if not (Path(wanted) / _STATE).is_file():
            raise BadSettings(
                f"--resume-from-checkpoint must be auto, none or a checkpoint; '{wanted}' has no {_STATE}"
            )
        return wanted
    # By time: the run before one that began anew may have come further.
    states = sorted(
        Path(settings.output_dir or "").glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_STATE}"),
        key=lambda file: file.stat().st_mtime,
    )
    if not states:
        return None
    found = str(states[-1].parent)
    if settings.process_index == 0:
        sys.stderr.write(f"goes on from {found}; --resume-from-checkpoint none begins anew\n")
    return found
