"""The join token: a secret that the gateways and workers of one mesh share, and that never leaves a process.

What it keeps out, and how, each with HMAC-SHA256 under the token over a purpose and the fields at stake:

    a forged record in the registry    the record carries a proof over id, incarnation, address and models
    a stranger at a worker's address   a session opens with a challenge each way; no prompt is sent before
    a stranger at a worker's port      the same challenge, and for other calls a proof over a nonce of the worker's

It does not encrypt: who can read or change what passes between the two needs TLS to be kept out as well.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from mesh import wire
from mesh.errors import ErrorKind, MeshError
from mesh.v1.registry_pb2 import WorkerRecord

LEAST_CHARACTERS = 16
NONCE_BYTES = 32
# A nonce of the worker may be used for so many seconds, for any number of calls.
NONCE_SECONDS = 300.0
_LEAST_NONCE_BYTES = 16
_NONCE_KEY = "mesh-nonce"
_PROOF_KEY = "mesh-proof"
# They prove the token inside, or tell a stranger nothing that it could use.
_OPEN_METHODS = ("/mesh.v1.InferenceService/Session", "/grpc.health.v1.Health/", "/grpc.reflection.")


class JoinToken:
    """Makes and checks proofs. Checks raise MeshError (unauthorized)."""

    def __init__(self, secret: str) -> None:
        """Raises MeshError for one that is too short to be a secret."""
        if len(secret) < LEAST_CHARACTERS:
            text = f"the join token must have at least {LEAST_CHARACTERS} characters, not {len(secret)}"
            raise MeshError(ErrorKind.INVALID_REQUEST, text, param="join_token")
        self._secret = secret.encode()

    def record(self, record: WorkerRecord) -> str:
        """The proof of a record; see registry.proto."""
        models = [text for model in record.models for text in (model.name, model.fingerprint)]
        return self._proof("mesh-record", record.worker_id, record.incarnation, record.address, *models).hex()

    def check_record(self, record: WorkerRecord) -> None:
        """Refuse a record that was not written with this token."""
        if not hmac.compare_digest(self.record(record).encode(), record.proof.encode()):
            raise _unauthorized("its proof is missing" if not record.proof else "its proof is not of this join token")

    def session(self, side: str, opening: tuple[bytes, bytes, str, str]) -> bytes:
        """The proof of one side ("gateway" or "worker") at the opening of a session: the nonces of gateway and worker,
        the worker's id and incarnation; see inference.proto."""
        return self._proof(f"mesh-session-{side}", *opening)

    def check_session(self, side: str, opening: tuple[bytes, bytes, str, str], proof: bytes) -> None:
        """Refuse a side that does not have this token."""
        if min(len(opening[0]), len(opening[1])) < _LEAST_NONCE_BYTES or not hmac.compare_digest(
            self.session(side, opening), proof
        ):
            raise _unauthorized(f"the {side} did not prove that it has the mesh's join token")

    def call(self, nonce: str, method: str) -> str:
        """The proof for a call of a method, such as /mesh.v1.AdminService/Drain."""
        return self._proof("mesh-call", nonce, method).hex()

    def _proof(self, purpose: str, *fields: str | bytes) -> bytes:
        mac = hmac.new(self._secret, digestmod=hashlib.sha256)
        for field in (purpose, *fields):
            data = field.encode() if isinstance(field, str) else field
            mac.update(len(data).to_bytes(4, "big") + data)
        return mac.digest()


def check_nonce(nonce: bytes) -> None:
    """Refuse a gateway that does not ask for a proof, since it cannot give one."""
    if len(nonce) < _LEAST_NONCE_BYTES:
        raise _unauthorized("this worker asks for the mesh's join token, which the gateway does not have")


def new_nonce() -> bytes:
    """Random bytes that nobody has seen before."""
    return secrets.token_bytes(NONCE_BYTES)


class CallGate(grpc.aio.ServerInterceptor):
    """Lets a call in that proves the token, and gives others the nonce to prove it with.

    A nonce is the worker's own time with a proof of its own, so that nothing is kept, and no clock but one counts.
    """

    def __init__(
        self, token: JoinToken, clock: Callable[[], float] = time.monotonic, also_open: Sequence[str] = ()
    ) -> None:
        """`also_open` are beginnings of methods, such as /package.Service/, whose callers prove something else."""
        self._token = token
        self._clock = clock
        self._open = (*_OPEN_METHODS, *also_open)
        self._own = JoinToken(secrets.token_hex(32))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        metadata = cast("Any", handler_call_details.invocation_metadata) or ()
        given = next((value for key, value in metadata if key == _PROOF_KEY and isinstance(value, str)), "")
        if handler is None or method.startswith(self._open) or self._proves(method, given):
            return handler
        what = "this worker has another join token" if given else "this worker asks for the mesh's join token"
        return _refusing(handler, what, self._nonce)

    def _nonce(self) -> str:
        made = str(int(self._clock()))
        return f"{made}.{self._own.call(made, '')}"

    def _proves(self, method: str, given: str) -> bool:
        nonce, _, proof = given.rpartition(".")
        made, _, own = nonce.partition(".")
        if not made.isascii() or not made.isdigit() or not _same(own, self._own.call(made, "")):
            return False
        return self._clock() - int(made) <= NONCE_SECONDS and _same(proof, self._token.call(nonce, method))


class CallProof(grpc.aio.UnaryUnaryClientInterceptor):
    """Proves the token on calls with one answer: asks for a nonce with the first one, and again when it is too old."""

    def __init__(self, token: JoinToken) -> None:
        self._token = token
        self._nonce = ""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """See grpc.aio.UnaryUnaryClientInterceptor."""
        call = await continuation(self._with_proof(client_call_details), request)
        if await call.code() is not grpc.StatusCode.UNAUTHENTICATED:
            return call
        given = (await call.trailing_metadata()).get(_NONCE_KEY)
        if not given:
            return call
        self._nonce = str(given)
        return await continuation(self._with_proof(client_call_details), request)

    def _with_proof(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        if not self._nonce:
            return details
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add(_PROOF_KEY, f"{self._nonce}.{self._token.call(self._nonce, method)}")
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


def _refusing(handler: Any, what: str, nonce: Callable[[], str]) -> Any:
    """A handler of the same shape that refuses."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await wire.abort(context, _unauthorized(what), (_NONCE_KEY, nonce()))

    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(
        refuse,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _unauthorized(message: str) -> MeshError:
    return MeshError(ErrorKind.UNAUTHORIZED, message)
