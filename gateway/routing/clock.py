"""The clock of everything here: the event loop's own, so that a test whose loop has virtual time rules it."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds; on an ordinary event loop those of time.monotonic()."""
    return asyncio.get_running_loop().time()
