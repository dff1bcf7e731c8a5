"""`python -m mesh.cli.completion`, the same as `mesh completion`."""

from __future__ import annotations

import sys

from mesh.cli.completion.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
