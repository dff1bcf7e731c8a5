"""The hold queue: requests that wait for a live worker instead of failing at once, bounded in number and time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from mesh.errors import ErrorKind, MeshError
from mesh.metrics import GatewayMetrics


class HoldQueue:
    """Counts who waits. New requests beyond `limit` are refused; those whose client already reads are not."""

    def __init__(self, *, limit: int, timeout: float, metrics: GatewayMetrics) -> None:
        self.timeout = timeout
        self._limit = limit
        self._held = 0
        metrics.held.set_function(lambda: self._held)

    @contextmanager
    def place(self, *, begun: bool) -> Generator[None]:
        """A place in the queue for the block; raises MeshError (no_worker) if it is full."""
        if not begun and self._held >= self._limit:
            raise MeshError(
                ErrorKind.NO_WORKER,
                f"no worker is live, and {self._held} requests wait for one already (limit {self._limit})",
                retry_after=max(1.0, self.timeout),
            )
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
