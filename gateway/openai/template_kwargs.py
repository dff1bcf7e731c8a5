"""The client's own variables for the chat template, within what the wire can carry."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from mesh.errors import MeshError, invalid

# Bytes of JSON: templates read switches and a few texts, and each value has its own message on the wire.
MAX_TEMPLATE_KWARGS: Final = 64 * 1024
# Each level is two of the hundred that a reader of protobuf goes down; beyond these it gives up the whole session.
MAX_LEVELS: Final = 16
# All numbers travel as doubles, which hold each whole number up to here.
_LARGEST: Final = 2**53


def check_template_kwargs(given: dict[str, Any] | None) -> None:
    """Raise MeshError for variables beyond the limits."""
    if not given:
        return
    _check_value(given, 0)
    size = len(msgspec.json.encode(given))
    if size > MAX_TEMPLATE_KWARGS:
        raise _refused(f"must have at most {MAX_TEMPLATE_KWARGS} bytes as JSON, not {size}")


def _check_value(value: object, level: int) -> None:
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise _refused(f"must have whole numbers between -{_LARGEST} and {_LARGEST}, not {str(value)[:40]}")
    if not isinstance(value, dict | list):
        return
    if level == MAX_LEVELS:
        raise _refused(f"must be nested at most {MAX_LEVELS} levels deep")
    inner = cast("dict[str, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)
    for each in inner:
        _check_value(each, level + 1)


def _refused(why: str) -> MeshError:
    return invalid("chat_template_kwargs", f"'chat_template_kwargs' {why}")
