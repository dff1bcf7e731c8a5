"""From a provider's refusals to errors of the mesh. No message may hold the worker's key."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from mesh.errors import ErrorKind, MeshError

_LONGEST = 600
_TOO_LONG_WORDS = ("context_length", "context length", "maximum context", "prompt is too long", "input token count")


def from_response(status: int, headers: Mapping[str, str], body: bytes, key: str | None) -> MeshError:
    """The error of an answer whose status is not 200."""
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if isinstance(found, list) and found:  # Google wraps its error in a list where it would have streamed one
        found = cast("list[object]", found)[0]
    return classify(status, _field(cast("object", found), "error"), key, retry_after=_retry_after(headers))


def classify(status: int, error: object, key: str | None, *, retry_after: float | None = None) -> MeshError:
    """The error of a status and of the provider's error object, which may be anything."""
    said, words = _texts(error)
    said = _shown(said, key)
    told = f": {said}" if said else ""
    if status in (401, 403) or "api_key_invalid" in words:
        # What a provider says of a bad key may quote it.
        text = f"the provider refused this worker's API key (status {status}): see --api-key-file and --api-key-env"
        return MeshError(ErrorKind.ENGINE_FAILED, text)
    if status in (402, 429, 503, 529):
        return MeshError(ErrorKind.OVERLOADED, f"the provider takes no more for now{told}", retry_after=retry_after)
    if status == 404:
        return MeshError(ErrorKind.ENGINE_FAILED, f"the provider does not know the model of this worker{told}")
    if status == 413:
        return MeshError(ErrorKind.PAYLOAD_TOO_LARGE, f"the request is too large for the provider{told}")
    if status in (400, 422):
        too_long = any(word in words for word in _TOO_LONG_WORDS)
        kind = ErrorKind.CONTEXT_LENGTH_EXCEEDED if too_long else ErrorKind.INVALID_REQUEST
        return MeshError(kind, f"the provider refuses the request{told}", param=_param(error))
    return MeshError(ErrorKind.ENGINE_FAILED, f"the provider failed with status {status}{told}")


# What the types of errors that arrive in the middle of a stream would have been as a status.
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


def from_event(error: object, key: str | None) -> MeshError:
    """The error of an error object in the middle of a stream."""
    code = _field(error, "code")
    status = code if isinstance(code, int) else _STATUS_OF.get(str(_field(error, "type")), 500)
    return classify(status, error, key)


def _field(error: object, name: str) -> object:
    return cast("dict[str, Any]", error).get(name) if isinstance(error, dict) else None


def _texts(error: object) -> tuple[str, str]:
    """The message for people, and everything in lower case to look for words in."""
    if isinstance(error, str):
        return error, error.lower()
    return str(_field(error, "message") or ""), str(error).lower()


def _param(error: object) -> str | None:
    param = _field(error, "param")
    return param if isinstance(param, str) else None


def _shown(text: str, key: str | None) -> str:
    text = " ".join(text.split())
    return (text.replace(key, "***") if key else text)[:_LONGEST]  # in this order: a key that is cut is one, too


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, given as a number or as a date."""
    given = headers.get("retry-after", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None
