"""Keys that come twice in one object of a body, of which another reader may take the other value: refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

import msgspec

from mesh.errors import MeshError, invalid

# Bodies of so many bytes are looked at where they are parsed, in less time than a thread costs.
AT_ONCE: Final = 128 * 1024

_decode = msgspec.json.Decoder().decode


def check_once(body: bytes) -> None:
    """Raise invalid_request for a body of valid JSON with a key that comes twice in one object.

    Such a key leaves fewer colons when the body is decoded and written again: of two values one is lost, with the colon
    before it. All else keeps its colons, and to count them costs microseconds.
    """
    if _colons(body) != msgspec.json.encode(_decode(body)).count(b":"):
        check_each(body)


def check_each(body: bytes) -> None:
    """The same, for a thread of its own: slower, but every object lets other threads go on. Also raises invalid_request
    for what is no JSON."""
    try:
        json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise no_json(error) from None


def no_json(error: Exception) -> MeshError:
    """The error for a body that cannot be read."""
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return invalid("body", f"the body is not valid JSON in UTF-8: {reason}")


def _colons(body: bytes) -> int:
    """Of a JSON text, with those that are written as escapes."""
    found = body.count(b":")
    if b"\\u003a" in body or b"\\u003A" in body:
        plain = body.replace(rb"\\", b"")  # pairs of backslashes, of which none begins an escape
        found += plain.count(b"\\u003a") + plain.count(b"\\u003A")
    return found


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) != len(dict(pairs)):
        # Counted in one go: to count each of a hundred thousand names by itself takes minutes.
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise invalid(twice[:200], f"'{twice[:200]}' is given twice in one object")
