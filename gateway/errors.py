"""Errors on the HTTP border, in the one place: status, headers, and the envelope of each API.

OpenAI's: {"error": {"message": str, "type": str, "param": str | null, "code": str | null}}
Anthropic's: {"type": "error", "error": {"type": str, "message": str}, "request_id": str}
"""

from __future__ import annotations

import logging
import math
from typing import Any

import msgspec
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from mesh.errors import ErrorKind, MeshError

log = logging.getLogger(__name__)

# When nothing better is known. A worker announces itself within seconds.
DEFAULT_RETRY_AFTER = 1.0
_SHOWN = 2000

# Errors of HTTP itself, which the mesh's table does not know: status -> (type, code).
HTTP_ERRORS = {
    404: ("invalid_request_error", "unknown_url"),
    405: ("invalid_request_error", "method_not_supported"),
    408: ("timeout_error", "request_timeout"),
    413: ("invalid_request_error", "payload_too_large"),
    429: ("rate_limit_error", "too_many_connections"),
    431: ("invalid_request_error", "headers_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
}


class ErrorBody(msgspec.Struct):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Envelope(msgspec.Struct):
    """The body of every error answer, and the data of an error event in a stream."""

    error: ErrorBody


class ErrorAnswer(msgspec.Struct):
    """An error, ready to be sent."""

    status: int
    error: ErrorBody
    headers: dict[str, str]
    code: str
    body: bytes


class AnthropicError(msgspec.Struct):
    """What is wrong; `details` are for clients that can do something about it."""

    type: str
    message: str
    details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class AnthropicEnvelope(msgspec.Struct, kw_only=True):
    """The same as `Envelope` in Anthropic's API, which has no field for the parameter: the message names it."""

    type: str = "error"
    error: AnthropicError
    request_id: str


# In Anthropic's API: codes with a status of their own, the types of errors by status, and details by parameter. A
# client of threads that is told so sends the whole conversation instead.
ANTHROPIC_STATUS = {"overloaded": 529}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ANTHROPIC_DETAILS = {"thread": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}


def answer(error: Exception) -> ErrorAnswer:
    """The answer to any exception. One that nobody foresaw is logged with its traceback and leaves without it."""
    if isinstance(error, MeshError):
        return _mesh(error)
    if isinstance(error, HTTPException):
        return _http(error)
    log.error("unexpected error", exc_info=error)
    return _mesh(MeshError(ErrorKind.ENGINE_FAILED, "the gateway failed to answer this request"))


def anthropic(failure: ErrorAnswer, request_id: str) -> ErrorAnswer:
    """The same answer as Anthropic's API has it."""
    status = ANTHROPIC_STATUS.get(failure.code, failure.status)
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error = AnthropicError(
        kind, failure.error.message, _ANTHROPIC_DETAILS.get(failure.error.param or "", msgspec.UNSET)
    )
    body = msgspec.json.encode(AnthropicEnvelope(error=error, request_id=request_id))
    return ErrorAnswer(status, failure.error, failure.headers, failure.code, body)


def _mesh(error: MeshError) -> ErrorAnswer:
    spec = error.kind.value
    headers = {"content-type": "application/json"}
    if error.retry_after is not None or spec.http_status == 503 or error.kind is ErrorKind.OVERLOADED:
        headers.update(_retry_after(error.retry_after if error.retry_after is not None else DEFAULT_RETRY_AFTER))
    if error.kind is ErrorKind.INSUFFICIENT_QUOTA:
        headers["x-should-retry"] = "false"  # OpenAI's SDKs would try a 429 again
    return _answer(spec.http_status, ErrorBody(error.message, spec.openai_type, error.param, spec.code), headers)


def _retry_after(seconds: float) -> dict[str, str]:
    """Whole seconds as HTTP has it, and milliseconds as OpenAI's SDKs read it first."""
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(0, round(seconds * 1000)))}


def _http(error: HTTPException) -> ErrorAnswer:
    status = error.code or 500
    type_, code = HTTP_ERRORS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    headers = {"content-type": "application/json"}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["allow"] = ", ".join(sorted(error.valid_methods))
    return _answer(status, ErrorBody(error.description or error.name, type_, None, code), headers)


def _answer(status: int, error: ErrorBody, headers: dict[str, str]) -> ErrorAnswer:
    """Bounded, since messages repeat what the client sent."""
    if len(error.message) > _SHOWN:
        error.message = error.message[:_SHOWN] + "…"
    return ErrorAnswer(status, error, headers, error.code or str(status), msgspec.json.encode(Envelope(error)))
