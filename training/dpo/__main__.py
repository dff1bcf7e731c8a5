"""`mesh train dpo`, `python -m training.dpo`; also under torchrun and accelerate launch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from training.command import command
from training.dpo.options import DpoOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code. Bad input is one sentence and exit code 2."""
    return command("mesh train dpo", DpoOptions, _load, sys.argv[1:] if argv is None else argv)


def _load() -> tuple[type[Any], Callable[[Any], object]]:
    from training.dpo.run import run
    from training.dpo.settings import DpoSettings

    return DpoSettings, run


if __name__ == "__main__":
    raise SystemExit(main())
