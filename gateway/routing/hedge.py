"""A second worker for a request whose first token is late, within a budget: an overload must not double itself.

The same request runs on both, and the first to bring a token goes on alone. Tokens do not depend on the worker, so the
client cannot tell which one it was. How it is run is in `generation.py`; here is how often.
"""

from __future__ import annotations

from enum import Enum

from mesh.metrics import GatewayMetrics

# Hedges of a model that quiet times can save up for a bad moment.
_MOST_SAVED = 10.0


class Hedge(Enum):
    """What became of a request whose first token was late; the values label metrics and logs."""

    RUNNING = "running"
    WON = "won"
    LOST = "lost"
    NO_PLACE = "no_place"
    OVER_BUDGET = "over_budget"


class Hedges:
    """The hedges of a gateway: of each model's requests at most this share, one of them in advance."""

    def __init__(self, share: float, metrics: GatewayMetrics) -> None:
        self._share = share
        self._metrics = metrics
        self._saved: dict[str, float] = {}

    def earn(self, model: str) -> None:
        """A request for the model has begun on a worker."""
        saved = self._saved.get(model, 1.0 if self._share else 0.0)
        self._saved[model] = min(saved + self._share, _MOST_SAVED)

    def spend(self, model: str) -> bool:
        """Whether there may be one more, which is then taken for made."""
        saved = self._saved.get(model, 0.0)
        if saved < 1:
            return False
        self._saved[model] = saved - 1
        return True

    def count(self, model: str, outcome: Hedge) -> None:
        """What became of one."""
        self._metrics.hedges.labels(model, outcome.value).inc()
