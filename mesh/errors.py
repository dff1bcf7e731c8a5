"""The one table of errors: stable code, gRPC status, HTTP status, OpenAI type, and whether another worker may try.

    code                         gRPC                 HTTP  another worker?
    invalid_request              INVALID_ARGUMENT      400  no
    context_length_exceeded      INVALID_ARGUMENT      400  no
    previous_response_not_found  NOT_FOUND             400  no
    unauthorized                 UNAUTHENTICATED       401  no
    invalid_api_key              UNAUTHENTICATED       401  no
    forbidden                    PERMISSION_DENIED     403  no
    model_not_found              NOT_FOUND             404  no
    not_found                    NOT_FOUND             404  no
    payload_too_large            INVALID_ARGUMENT      413  no
    rate_limit_exceeded          RESOURCE_EXHAUSTED    429  no
    insufficient_quota           RESOURCE_EXHAUSTED    429  no
    overloaded                   RESOURCE_EXHAUSTED    429  yes
    engine_failed                INTERNAL              500  yes
    unsupported                  UNIMPLEMENTED         400  no
    worker_lost                  UNAVAILABLE           502  yes
    draining                     UNAVAILABLE           503  yes
    wrong_worker                 FAILED_PRECONDITION   502  yes
    wrong_model                  FAILED_PRECONDITION   502  yes
    protocol_error               INTERNAL              502  yes
    request_quarantined          FAILED_PRECONDITION   422  no
    no_worker                    UNAVAILABLE           503  no
    store_unavailable            UNAVAILABLE           503  no
    deadline_exceeded            DEADLINE_EXCEEDED     504  no
    taken_over                   ABORTED               409  no

Cancellation by the client is not an error. Import-light on purpose: the engine uses it too, and knows nothing of gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """What one kind of error looks like on every border.

    `code` is stable and public (gRPC ErrorInfo.reason, OpenAI `error.code`); `grpc_status` is the status' name;
    `openai_type` is `error.type`; `retry_elsewhere` says whether another worker may succeed with the same request.
    """

    code: str
    grpc_status: str
    http_status: int
    openai_type: str
    retry_elsewhere: bool = False


class ErrorKind(Enum):
    """The kinds of error that cross a border."""

    INVALID_REQUEST = ErrorSpec("invalid_request", "INVALID_ARGUMENT", 400, "invalid_request_error")
    CONTEXT_LENGTH_EXCEEDED = ErrorSpec("context_length_exceeded", "INVALID_ARGUMENT", 400, "invalid_request_error")
    PREVIOUS_NOT_FOUND = ErrorSpec("previous_response_not_found", "NOT_FOUND", 400, "invalid_request_error")
    UNSUPPORTED = ErrorSpec("unsupported", "UNIMPLEMENTED", 400, "invalid_request_error")
    UNAUTHORIZED = ErrorSpec("unauthorized", "UNAUTHENTICATED", 401, "authentication_error")
    INVALID_API_KEY = ErrorSpec("invalid_api_key", "UNAUTHENTICATED", 401, "invalid_request_error")
    FORBIDDEN = ErrorSpec("forbidden", "PERMISSION_DENIED", 403, "permission_error")
    MODEL_NOT_FOUND = ErrorSpec("model_not_found", "NOT_FOUND", 404, "invalid_request_error")
    NOT_FOUND = ErrorSpec("not_found", "NOT_FOUND", 404, "invalid_request_error")
    PAYLOAD_TOO_LARGE = ErrorSpec("payload_too_large", "INVALID_ARGUMENT", 413, "invalid_request_error")
    RATE_LIMIT_EXCEEDED = ErrorSpec("rate_limit_exceeded", "RESOURCE_EXHAUSTED", 429, "rate_limit_error")
    INSUFFICIENT_QUOTA = ErrorSpec("insufficient_quota", "RESOURCE_EXHAUSTED", 429, "insufficient_quota")
    OVERLOADED = ErrorSpec("overloaded", "RESOURCE_EXHAUSTED", 429, "rate_limit_error", retry_elsewhere=True)
    ENGINE_FAILED = ErrorSpec("engine_failed", "INTERNAL", 500, "server_error", retry_elsewhere=True)
    WORKER_LOST = ErrorSpec("worker_lost", "UNAVAILABLE", 502, "server_error", retry_elsewhere=True)
    DRAINING = ErrorSpec("draining", "UNAVAILABLE", 503, "server_error", retry_elsewhere=True)
    WRONG_WORKER = ErrorSpec("wrong_worker", "FAILED_PRECONDITION", 502, "server_error", retry_elsewhere=True)
    WRONG_MODEL = ErrorSpec("wrong_model", "FAILED_PRECONDITION", 502, "server_error", retry_elsewhere=True)
    PROTOCOL_ERROR = ErrorSpec("protocol_error", "INTERNAL", 502, "server_error", retry_elsewhere=True)
    QUARANTINED = ErrorSpec("request_quarantined", "FAILED_PRECONDITION", 422, "invalid_request_error")
    NO_WORKER = ErrorSpec("no_worker", "UNAVAILABLE", 503, "server_error")
    STORE_UNAVAILABLE = ErrorSpec("store_unavailable", "UNAVAILABLE", 503, "server_error")
    DEADLINE_EXCEEDED = ErrorSpec("deadline_exceeded", "DEADLINE_EXCEEDED", 504, "server_error")
    TAKEN_OVER = ErrorSpec("taken_over", "ABORTED", 409, "invalid_request_error")


_BY_CODE: Final = {kind.value.code: kind for kind in ErrorKind}


class MeshError(Exception):
    """An error with a kind, a sentence for people, and the field at fault if one is.

    `retry_after` is in seconds. The message names field, limit and value; it may be shown to clients.
    """

    def __init__(
        self, kind: ErrorKind, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def code(self) -> str:
        """The stable code."""
        return self.kind.value.code

    def renamed(self, wire: str, ours: str) -> MeshError:
        """The same, in an API that calls the wire's field `wire` by another name."""
        if self.param != wire or wire == ours:
            return self
        message = self.message.replace(f"'{wire}", f"'{ours}", 1)
        return MeshError(self.kind, message, param=ours, retry_after=self.retry_after)

    def saying(self, words: str, others: str) -> MeshError:
        """The same with other words in place of some."""
        if words not in self.message:
            return self
        return MeshError(self.kind, self.message.replace(words, others), param=self.param, retry_after=self.retry_after)

    @classmethod
    def from_code(
        cls, code: str, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> MeshError:
        """Rebuild an error from the wire; a code of a newer version becomes engine_failed, its message kept."""
        kind = _BY_CODE.get(code, ErrorKind.ENGINE_FAILED)
        return cls(kind, message, param=param, retry_after=retry_after)


def invalid(param: str, message: str) -> MeshError:
    """The commonest error: a bad value of the field `param`. The message should name limit and value."""
    return MeshError(ErrorKind.INVALID_REQUEST, message, param=param)


def unsupported(param: str, message: str | None = None) -> MeshError:
    """A field that is understood but cannot be honoured here: refused by name, never ignored."""
    return MeshError(
        ErrorKind.UNSUPPORTED, message or f"'{param}' is not supported by this model's worker", param=param
    )


def out_of_range(param: str, value: object, low: float | int, high: float | int) -> MeshError:
    """A number outside its limits."""
    return invalid(param, f"'{param}' must be between {low} and {high}, not {value}")


def deadline_passed(seconds: float) -> MeshError:
    """A client's own limit of so many seconds is over."""
    return MeshError(
        ErrorKind.DEADLINE_EXCEEDED, f"the deadline of {seconds:g} s passed before the answer was complete"
    )
