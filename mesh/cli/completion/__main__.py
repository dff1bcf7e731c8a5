"""`python -m mesh.cli.completion`, the same as `mesh completion`."""

from __future__ import annotations

import sys

from mesh.cli.completion.command import main
from mesh.ending import run_to_end

if __name__ == "__main__":
    raise SystemExit(run_to_end("mesh completion", lambda: main(sys.argv[1:])))
