"""What all requests of a gateway share on their way to a worker."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.routing.aliases import Aliases
from gateway.routing.balancer import Balancer
from gateway.routing.directory import Directory
from gateway.routing.hedge import Hedges
from gateway.routing.outliers import Outliers
from gateway.routing.quarantine import Quarantine
from gateway.routing.queue import Queue
from mesh.errors import MeshError
from mesh.metrics import GatewayMetrics
from mesh.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Where requests can go, and the limits on their way there. Limits: see GatewayConfig."""

    directory: Directory
    queue: Queue
    aliases: Aliases
    metrics: GatewayMetrics
    balancer: Balancer
    quarantine: Quarantine
    outliers: Outliers
    hedges: Hedges
    max_attempts: int
    credit: int
    stall_ceiling: float
    embed_timeout: float
    keep_seconds: float

    def check_can(self, name: str, needs: frozenset[pb.Capability]) -> None:
        """Raise unsupported for a model that is here, or for a name of several, if none can do what is needed."""
        failure: MeshError | None = None
        for model in self.aliases.models(name):
            try:
                return self.directory.check_can(model, needs)
            except MeshError as error:
                failure = failure or error
        assert failure is not None
        raise failure
