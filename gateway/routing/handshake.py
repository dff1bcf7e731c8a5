"""How a session is opened: with the worker that the registry told of, or not at all."""

from __future__ import annotations

from mesh.errors import ErrorKind, MeshError
from mesh.join import JoinToken, new_nonce
from mesh.v1 import inference_pb2 as pb


class Handshake:
    """One opening. Worker and gateway prove the join token to each other, if there is one."""

    def __init__(self, worker_id: str, incarnation: str, address: str, join: JoinToken | None) -> None:
        self._worker_id = worker_id
        self._incarnation = incarnation
        self._address = address
        self._join = join
        self._nonce = new_nonce() if join is not None else b""

    def opening(self, client: str) -> pb.SessionRequest:
        """The first message of this client."""
        opening = pb.SessionOpen(
            client=client,
            expected_worker_id=self._worker_id,
            expected_incarnation=self._incarnation,
            columns=True,
            nonce=self._nonce,
        )
        return pb.SessionRequest(open=opening)

    def check(self, opened: pb.SessionOpened) -> pb.SessionRequest | None:
        """Whether the worker that answers is the right one; returns what has to be sent to it first, if anything.
        Raises MeshError."""
        if (opened.worker_id, opened.incarnation) != (self._worker_id, self._incarnation):
            raise MeshError(
                ErrorKind.WRONG_WORKER,
                f"at {self._address} is worker '{opened.worker_id}' ({opened.incarnation}) instead of "
                f"'{self._worker_id}' ({self._incarnation})",
            )
        if self._join is None:
            return None
        proven = (self._nonce, opened.nonce, self._worker_id, self._incarnation)
        self._join.check_session("worker", proven, opened.proof)
        return pb.SessionRequest(prove=pb.SessionProof(proof=self._join.session("gateway", proven)))
