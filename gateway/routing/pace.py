"""How fast a worker steps, learnt from the loads that it reports, and from when on a standstill means frozen.

A worker that steps on may still have forgotten one of its streams. It shows where nothing excuses silence: a row that
has had tokens gets some with every step, unless it waits for its reader, or rows wait or prompts are computed, which
may hold it up.
"""

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

    @property
    def shortest(self) -> float:
        """No standstill that is shorter counts, whatever the pace."""
        return min(self.floor, self.ceiling)


class Pace:
    """The mean time of a step while there is work, and when the last step was.

    A step that prefills prompts may take a hundred times as long as one that only decodes, so each kind has a mean of
    its own: a long prompt must not look like a frozen worker.
    """

    def __init__(self, now: float, limits: StallLimits) -> None:
        self.stepped_at = now
        # Whether the last report shows progress, or that there is nothing to do.
        self.thawed = True
        # Whether it shows that there is nothing to do, and when there last was anything.
        self.idle = True
        self.worked_at = now
        # When a row could last have been held up by others.
        self.crowded_at = now
        self._limits = limits
        self._steps = 0
        self._busy = False
        self._prefilling = False
        self._decode: float | None = None
        self._prefill: float | None = None

    def observe(self, load: pb.WorkerLoad, now: float) -> None:
        """Take a load report. Only time between steps with rows running says something about the pace."""
        steps = load.steps
        running = load.running > 0
        self.idle = not (running or load.waiting or load.paused)
        self.thawed = steps != self._steps or self.idle
        if not self.idle:
            self.worked_at = now
        if load.waiting or load.pending_tokens:
            self.crowded_at = now
        if steps != self._steps:
            if self._busy and steps > self._steps:
                self._learn((now - self.stepped_at) / (steps - self._steps))
            self._steps = steps
            self.stepped_at = now
        elif running and not self._busy:
            self.stepped_at = now  # the time before was idle, and no part of the step that has begun
        self._busy = running
        self._prefilling = load.pending_tokens > 0

    def _learn(self, interval: float) -> None:
        if self._prefilling:
            self._prefill = mean_of(self._prefill, interval)
        else:
            self._decode = mean_of(self._decode, interval)

    @property
    def limit(self) -> float:
        """Seconds of standstill that count as frozen, for the kind of step that is under way."""
        return self.limit_of(self._prefill if self._prefilling else self._decode)

    def limit_of(self, mean: float | None) -> float:
        """The same for a mean time in seconds between signs of life; None if it is not known."""
        if mean is None:
            return self._limits.ceiling
        return min(max(mean * self._limits.factor, self._limits.floor), self._limits.ceiling)

    @property
    def step_seconds(self) -> float | None:
        """The mean time of a step that only decodes; None as long as none has been seen."""
        return self._decode

    def forgive(self, seconds: float) -> None:
        """So much time is not held against the worker: it may have spoken without being heard."""
        self.stepped_at += seconds
        self.worked_at += seconds
        self.crowded_at += seconds


def mean_of(old: float | None, interval: float) -> float:
    """The mean that follows: of intervals in seconds, the newest counting most."""
    return interval if old is None else old + _WEIGHT * (interval - old)
