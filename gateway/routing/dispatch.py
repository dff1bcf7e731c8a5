"""What all requests of a gateway share on their way to a worker."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.routing.balancer import Balancer
from gateway.routing.directory import Directory
from gateway.routing.outliers import Outliers
from gateway.routing.quarantine import Quarantine
from gateway.routing.queue import Queue
from mesh.metrics import GatewayMetrics


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Where requests can go, and the limits on their way there. Limits: see GatewayConfig."""

    directory: Directory
    queue: Queue
    metrics: GatewayMetrics
    balancer: Balancer
    quarantine: Quarantine
    outliers: Outliers
    max_attempts: int
    credit: int
    stall_ceiling: float
    embed_timeout: float
    keep_seconds: float
