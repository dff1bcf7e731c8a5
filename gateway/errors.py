"""Errors on the HTTP border, in the one place: OpenAI's envelope, status, headers.

{"error": {"message": str, "type": str, "param": str | null, "code": str | null}}
"""

from __future__ import annotations

import logging
import math

import msgspec
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from mesh.errors import ErrorKind, MeshError

log = logging.getLogger(__name__)

# When nothing better is known. A worker announces itself within seconds.
DEFAULT_RETRY_AFTER = 1.0
_SHOWN = 2000

# Errors of HTTP itself, which the mesh's table does not know: status -> (type, code).
_HTTP = {
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
    body: bytes
    headers: dict[str, str]
    code: str


def answer(error: Exception) -> ErrorAnswer:
    """The answer to any exception. One that nobody foresaw is logged with its traceback and leaves without it."""
    if isinstance(error, MeshError):
        return _mesh(error)
    if isinstance(error, HTTPException):
        return _http(error)
    log.error("unexpected error", exc_info=error)
    return _mesh(MeshError(ErrorKind.ENGINE_FAILED, "the gateway failed to answer this request"))


def event(failure: ErrorAnswer) -> bytes:
    """The one SSE event of an error after the first byte; neither a finish_reason nor [DONE] follows."""
    return b"data: " + failure.body + b"\n\n"


def _mesh(error: MeshError) -> ErrorAnswer:
    spec = error.kind.value
    headers = {"content-type": "application/json"}
    if error.retry_after is not None or spec.http_status == 503 or error.kind is ErrorKind.OVERLOADED:
        headers.update(_retry_after(error.retry_after if error.retry_after is not None else DEFAULT_RETRY_AFTER))
    if error.kind is ErrorKind.INSUFFICIENT_QUOTA:
        headers["x-should-retry"] = "false"  # OpenAI's SDKs would try a 429 again
    body = _encode(error.message, spec.openai_type, error.param, spec.code)
    return ErrorAnswer(spec.http_status, body, headers, spec.code)


def _retry_after(seconds: float) -> dict[str, str]:
    """Whole seconds as HTTP has it, and milliseconds as OpenAI's SDKs read it first."""
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(0, round(seconds * 1000)))}


def _http(error: HTTPException) -> ErrorAnswer:
    status = error.code or 500
    type_, code = _HTTP.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    headers = {"content-type": "application/json"}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["allow"] = ", ".join(sorted(error.valid_methods))
    message = error.description or error.name
    return ErrorAnswer(status, _encode(message, type_, None, code), headers, code or str(status))


def _encode(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    """Bounded, since messages repeat what the client sent."""
    shown = message if len(message) <= _SHOWN else message[:_SHOWN] + "…"
    return msgspec.json.encode(Envelope(ErrorBody(shown, type_, param, code)))
