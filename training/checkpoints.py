"""Where a run that was stopped goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, trainer_utils


def checkpoint_of(settings: TrainingArguments) -> str | None:
    """The checkpoint to go on from: the one that is named, or with `auto` the last in the output folder; else None."""
    wanted = settings.resume_from_checkpoint
    if wanted in (None, "none"):
        return None
    if wanted != "auto":
        return wanted
    folder = Path(settings.output_dir or "")
    library: Any = trainer_utils
    found: str | None = library.get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is not None:
        sys.stderr.write(f"goes on from {found}; --resume-from-checkpoint none begins anew\n")
    return found
