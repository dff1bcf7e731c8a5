"""How fast a worker steps, learnt from the loads that it reports, and from when on a standstill means frozen."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.v1 import inference_pb2 as pb

# Weight of the newest interval in the mean. At 20 steps a second the mean follows a change within a second.
_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class StallLimits:
    """Times in seconds; `factor` multiplies the worker's own mean step time. See GatewayConfig."""

    factor: float = 20.0
    floor: float = 3.0
    ceiling: float = 30.0


class Pace:
    """The mean time of a step while there is work, and when the last step was."""

    def __init__(self, now: float, limits: StallLimits) -> None:
        self.mean: float | None = None
        self.stepped_at = now
        self._limits = limits
        self._steps = 0
        self._busy = False
        # Whether the last report shows progress, or that there is nothing to do.
        self.thawed = True

    def observe(self, load: pb.WorkerLoad, now: float) -> None:
        """Take a load report. Only time between steps with rows running says something about the pace."""
        steps = load.steps
        self.thawed = steps != self._steps or not (load.running or load.waiting or load.paused)
        if steps != self._steps:
            if self._busy and steps > self._steps:
                self._learn((now - self.stepped_at) / (steps - self._steps))
            self._steps = steps
            self.stepped_at = now
        self._busy = load.running > 0

    def _learn(self, interval: float) -> None:
        self.mean = interval if self.mean is None else self.mean + _WEIGHT * (interval - self.mean)

    @property
    def limit(self) -> float:
        """Seconds of standstill that count as frozen."""
        if self.mean is None:
            return self._limits.ceiling
        return min(max(self.mean * self._limits.factor, self._limits.floor), self._limits.ceiling)

    @property
    def ceiling(self) -> float:
        """Seconds of standstill after which a request fails even without a place to go."""
        return self._limits.ceiling
