"""`mesh train demo`, `python -m training.demo`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from mesh.config import parse
from training.command import imported
from training.demo.config import ENV_PREFIX, DemoConfig

_PROG = "mesh train demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the model; returns the exit code. Bad input is one sentence and exit code 2."""
    config = parse(DemoConfig, prog=_PROG, env_prefix=ENV_PREFIX, argv=sys.argv[1:] if argv is None else argv)
    imported(_PROG, _load)(config)
    return 0


def _load() -> Callable[[DemoConfig], None]:
    from training.demo.make import make

    return make


if __name__ == "__main__":
    raise SystemExit(main())
