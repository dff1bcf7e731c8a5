"""Calls written as JSON: {"name": "f", "arguments": {…}}, alone or in a list, between marks or without any."""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from typing import Any

from mesh.dialects.source import Content, Reading, Source

_ARGUMENTS = ("arguments", "parameters")


def marked_calls(source: Source, begin: tuple[str, ...], end: tuple[str, ...]) -> Reading[None]:
    """Text with calls in it, each call or list of calls after one of `begin` and, as a rule, before one of `end`.

    What follows a mark without being a call is text, the mark as well.
    """
    while mark := (yield from source.copy_until(lambda text: source.put(Content, text), *begin)):
        if (yield from read_calls(source)):
            if end:
                yield from source.skip_space()
                yield from source.literal(*end)
        else:
            source.put(Content, mark)


def bare_calls(source: Source, names: Container[str], mark: str) -> Reading[None]:
    """An answer that is text, or that is calls of functions called `names` from its first character on, with an
    optional `mark` before them, and semicolons or commas between."""
    start = source.at
    yield from source.skip_space()
    yield from source.literal(mark)
    yield from source.skip_space()
    if not (yield from read_call(source, names)):
        source.at = start
        yield from source.copy_rest(Content)
        return
    while True:
        start = source.at
        yield from source.skip_space()
        yield from source.literal(";", ",")
        yield from source.skip_space()
        yield from source.literal(mark)
        if not (yield from read_call(source, names)):
            source.at = start
            yield from source.copy_rest(Content)
            return


def read_calls(source: Source) -> Reading[bool]:
    """Report a call, or a list of calls as far as it is one. False, and no step forward, if there is none."""
    start = source.at
    yield from source.skip_space()
    listed = yield from source.literal("[")
    yield from source.skip_space()
    if not (yield from read_call(source)):
        source.at = start
        return False
    while listed:
        start = source.at
        yield from source.skip_space()
        mark = yield from source.literal(",", "]")
        if mark == "]":
            break
        yield from source.skip_space()
        if not mark or not (yield from read_call(source)):
            source.at = start
            break
    return True


def read_call(source: Source, names: Container[str] | None = None) -> Reading[bool]:
    """Report a call, its arguments as they come. False, and no step forward, if it is none, or of none of `names`."""
    start = source.at
    name, arguments = "", "{}"
    mark = yield from source.literal("{")
    while mark in ("{", ","):
        key = yield from _key(source)
        if key in _ARGUMENTS and name and (yield from source.peek()) == "{":
            source.call(name)
            yield from copy_value(source, source.arguments)
            yield from _close(source)
            return True
        raw = (yield from _value(source)) if key else None
        value = None if raw is None else parsed(raw)
        if key == "name" and isinstance(value, str) and value and (names is None or value in names):
            name = value
        elif key in _ARGUMENTS and raw is not None and (isinstance(value, str | dict) or raw == "null"):
            arguments = value or "{}" if isinstance(value, str) else "{}" if raw == "null" else raw
        elif key in ("name", *_ARGUMENTS) or raw is None:
            break
        yield from source.skip_space()
        mark = yield from source.literal(",", "}")
    if mark != "}" or not name:
        source.at = start
        return False
    source.call(name)
    source.arguments(arguments)
    return True


def copy_value(source: Source, put: Callable[[str], None], *, keep: bool = False) -> Reading[bool]:
    """Hand on an object, a list or a string as it comes; whether it was closed. `keep`: without forgetting it."""
    depth, quoted, escaped = 0, False, False
    while True:
        text, start = source.text, source.at
        for place in range(start, len(text)):
            character = text[place]
            if escaped:
                escaped = False
            elif quoted:
                quoted, escaped = character != '"', character == "\\"
            elif character == '"':
                quoted = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
            if depth <= 0 and not quoted:
                source.at = place + 1
                put(text[start : source.at])
                return True
        source.at = len(text)
        put(text[start:])
        if source.ended:
            return False
        if not keep:
            source.drop()
        yield


def parsed(raw: str) -> Any:
    """The value of JSON text; None if it is none, or has half a surrogate pair, which no text can hold."""
    try:
        value = json.loads(raw)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _close(source: Source) -> Reading[None]:
    """Pass what follows the arguments up to the end of the call; if that is no JSON, it is left as text."""
    start = source.at
    while True:
        yield from source.skip_space()
        mark = yield from source.literal(",", "}")
        if mark == "}":
            return
        if not mark or not (yield from _key(source)) or (yield from _value(source)) is None:
            source.at = start
            return


def _key(source: Source) -> Reading[str]:
    """Pass a key and its colon; empty if there is none."""
    yield from source.skip_space()
    if (yield from source.peek()) != '"':
        return ""
    raw = yield from _value(source)
    yield from source.skip_space()
    colon = yield from source.literal(":")
    yield from source.skip_space()
    key = parsed(raw) if raw is not None and colon else None
    return key if isinstance(key, str) else ""


def _value(source: Source) -> Reading[str | None]:
    """Pass a value and return its text; None if there is none."""
    pieces: list[str] = []
    first = yield from source.peek()
    if first and first in '{["':
        closed = yield from copy_value(source, pieces.append, keep=True)
        return "".join(pieces) if closed else None
    while (character := (yield from source.peek())) and (character.isalnum() or character in "+-."):
        pieces.append(character)
        source.at += 1
    return "".join(pieces) or None
