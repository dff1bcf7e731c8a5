"""Arguments that are not written as JSON: made into JSON by what the function's schema says of them."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from typing import Any, cast

from mesh.dialects.source import Reading, Source

Schema = Mapping[str, Any]
Tools = Mapping[str, Schema]
"""The schema of each function's arguments, by the function's name."""


class ObjectWriter:
    """Reports the members of a call's arguments one after the other."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._count = 0

    def member(self, key: str, value: str) -> None:
        """A member, or with a value that is not yet complete, the beginning of one; `value` is JSON text."""
        begin = ", " if self._count else "{"
        self._count += 1
        self._source.arguments(f"{begin}{dump(key)}: {value}")

    def close(self) -> None:
        """No more members."""
        self._source.arguments("}" if self._count else "{}")


def copy_text_value(source: Source, writer: ObjectWriter, key: str, schema: Schema | None, *ends: str) -> Reading[bool]:
    """Report the member `key`, whose value is the text before the first of `ends`, as it comes if it is a string.

    Returns whether the value was complete.
    """
    if json_types(schema) == {"string"}:
        writer.member(key, '"')
        closed = yield from source.copy_until(lambda text: source.arguments(dump(text)[1:-1]), *ends)
        if closed:
            source.arguments('"')
        return bool(closed)
    pieces: list[str] = []
    closed = yield from source.copy_until(pieces.append, *ends)
    raw = "".join(pieces)
    writer.member(key, json_value(raw, schema) if closed else raw)
    return bool(closed)


def property_schema(schema: Schema | None, key: str) -> Schema | None:
    """What a schema of arguments says of one of them; None if it says nothing."""
    properties: Any = (schema or {}).get("properties")
    found: Any = cast(dict[str, Any], properties).get(key) if isinstance(properties, dict) else None
    return cast("Schema", found) if isinstance(found, dict) else None


def json_value(raw: str, schema: Schema | None) -> str:
    """The JSON of a value that is written as JSON, as Python, or, if the schema lets it be a string, as it is."""
    types = json_types(schema)
    try:
        value = literal_value(raw.strip())
    except ValueError:
        return dump(raw)
    fits = not types or _type_of(value) in types or (_type_of(value) == "integer" and "number" in types)
    return dump(raw) if "string" in types and not fits else dump(value)


def literal_value(raw: str) -> Any:
    """The value of JSON text or of a Python literal; raises ValueError if it is none that JSON has."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that Python does not know
                value = ast.literal_eval(raw)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise ValueError(f"no literal: {type(error).__name__}") from None
    try:
        json.dumps(
            value, allow_nan=False, ensure_ascii=False
        ).encode()  # not half a surrogate pair, which no text holds
    except (TypeError, RecursionError):
        raise ValueError("no value of JSON") from None
    return value


def dump(value: Any) -> str:
    """JSON text with characters as they are."""
    return json.dumps(value, ensure_ascii=False)


def json_types(schema: Schema | None) -> set[str]:
    """The types that a schema names, in JSON schema's words; empty if it names none."""
    if not schema:
        return set()
    declared: Any = schema.get("type")
    if isinstance(declared, str):
        return {declared}
    if isinstance(declared, list):
        return {str(each) for each in cast(list[Any], declared)}
    values: Any = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return {_type_of(each) for each in cast(list[Any], values)}
    found: set[str] = set()
    for word in ("anyOf", "oneOf"):
        options: Any = schema.get(word)
        for option in cast(list[Any], options) if isinstance(options, list) else ():
            types = json_types(cast("Schema", option)) if isinstance(option, dict) else set[str]()
            if not types:
                return set()
            found |= types
    return found


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case dict():
            return "object"
        case _:
            return "array"
