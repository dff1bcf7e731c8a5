"""Who a worker is."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mesh.errors import ErrorKind, MeshError
from mesh.join import JoinToken


@dataclass(frozen=True, slots=True)
class Identity:
    """A worker's id, the incarnation that tells this start of the process from every other one, and what it proves."""

    worker_id: str
    incarnation: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    join: JoinToken | None = None  # the mesh's, if it has one

    def check(self, expected_worker_id: str, expected_incarnation: str) -> None:
        """Refuse with `wrong_worker` a client that means somebody else; empty means anybody."""
        if expected_worker_id not in ("", self.worker_id):
            raise self._wrong("expected_worker_id", expected_worker_id, self.worker_id)
        if expected_incarnation not in ("", self.incarnation):
            raise self._wrong("expected_incarnation", expected_incarnation, self.incarnation)

    def _wrong(self, param: str, expected: str, actual: str) -> MeshError:
        return MeshError(
            ErrorKind.WRONG_WORKER, f"'{param}' is '{expected}' but this worker's is '{actual}'", param=param
        )
