"""Whole numbers that a body writes with a fraction of nothing, such as `16.0`: integers in JSON, and for clients of
languages that have one kind of number. `1.5` is none."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

Body = TypeVar("Body")

# msgspec's complaint, by the field of the body that it is within.
_FLOAT: Final = re.compile(r"^Expected `int\b[^`]*`, got `float` - at `\$\.(?P<field>[^`.\[]+)")
_LARGEST: Final = 2.0**63


def with_whole_numbers(
    decoder: msgspec.json.Decoder[Body], body: bytes, error: msgspec.ValidationError
) -> Body | msgspec.ValidationError:
    """The body, if all that `error` and its successors object to are whole numbers; otherwise the last objection.

    A slow path: a body without such numbers never comes here. Raises DecodeError for what is no JSON.
    """
    fields: dict[str, Any] | None = None
    turned: set[str] = set()
    while (found := _FLOAT.match(str(error))) and found["field"] not in turned:
        fields = msgspec.json.decode(body) if fields is None else fields
        assert fields is not None
        name = found["field"]
        turned.add(name)
        fields[name] = _whole(fields[name])
        try:
            return msgspec.convert(fields, decoder.type)
        except msgspec.ValidationError as another:
            error = another
    return error


def _whole(value: Any) -> Any:
    """A value with integers for all its whole numbers."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _LARGEST else value
    if isinstance(value, list):
        return [_whole(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value
