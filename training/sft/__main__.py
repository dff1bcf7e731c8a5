"""`mesh train sft`, `python -m training.sft`; also under torchrun and accelerate launch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from training.command import command
from training.sft.options import SftOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code. Bad input is one sentence and exit code 2."""
    return command("mesh train sft", SftOptions, _load, sys.argv[1:] if argv is None else argv)


def _load() -> tuple[type[Any], Callable[[Any], object]]:
    from training.sft.run import run
    from training.sft.settings import SftSettings

    return SftSettings, run


if __name__ == "__main__":
    raise SystemExit(main())
