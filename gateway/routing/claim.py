"""What decides when a request is served beside others: whose it is, how urgent it is, until when it is of use.

Workers are told of the deadline but not of the priority: they take what the queue gives them in that order. A worker
that put urgent requests first again would undo the turn of a patient one for as long as urgent ones come.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.routing import clock
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class Claim:
    """`tenant` is the id of an API key, "" without keys, and `weight` its share beside others; lower priorities go
    first; `deadline` is by `clock`, None for no limit; one that does not `hold` is not kept waiting where there is no
    worker: it comes again."""

    tenant: str = ""
    priority: int = 0
    deadline: float | None = None
    weight: float = 1.0
    holds: bool = True

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline; negative once it has passed."""
        return None if self.deadline is None else self.deadline - clock.now()

    def check(self) -> None:
        """Raise deadline_exceeded if it is too late."""
        left = self.seconds_left
        if left is not None and left <= 0:
            raise MeshError(ErrorKind.DEADLINE_EXCEEDED, "the deadline passed before a worker was asked")

    def limit(self, request: pb.GenerateRequest) -> None:
        """Tell a worker how long the answer is of use from now on."""
        left = self.seconds_left
        if left is not None:
            request.deadline_ms = max(1, int(left * 1000))
