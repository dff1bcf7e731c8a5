"""`python -m mesh.cli`, the same as `mesh`."""

from __future__ import annotations

from mesh.cli.main import main

main()
