"""`mesh train dpo`, `python -m training.dpo`; also under torchrun and accelerate launch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from mesh.config import fail
from training.dpo.run import run
from training.dpo.settings import DpoSettings
from training.reading import BadFile
from training.settings import BadSettings, parse_settings

PROG: Final = "mesh train dpo"


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code. Bad input is one sentence and exit code 2."""
    settings = parse_settings(DpoSettings, sys.argv[1:] if argv is None else argv, prog=PROG)
    try:
        run(settings)
    except (BadSettings, BadFile) as error:
        fail(PROG, str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
