"""`mesh data`, `python -m training.data`: the tools, or a word on what is not installed."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.config import fail
from mesh.ending import run_to_end


def main(argv: Sequence[str] | None = None) -> int:
    """Run one tool, or a chain; returns the exit code. Bad input is one sentence and exit code 2."""
    try:
        from training.data.cli import main as run

        return run(argv)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("mesh", "training", "webui"):
            raise
        fail("mesh data", f"{package} is not installed: pip install 'inference-mesh[data]'")


if __name__ == "__main__":
    raise SystemExit(run_to_end("mesh data", main))
