"""Calls written as a list of Python calls: [get_weather(city="Paris"), stop()], as Llama 3.2 and 4 do."""

from __future__ import annotations

from mesh.dialects.source import Content, Reading, Source
from mesh.dialects.values import ObjectWriter, Tools, dump, literal_value

BEGIN, END = "<|python_start|>", "<|python_end|>"
_OPEN, _CLOSE = "([{", ")]}"


def pythonic(source: Source, tools: Tools) -> Reading[None]:
    """An answer that is text, or that is a list of calls of `tools` from its first character on."""
    start = source.at
    yield from source.skip_space()
    yield from source.literal(BEGIN)
    yield from source.skip_space()
    if not ((yield from source.literal("[")) and (yield from _call(source, tools))):
        source.at = start
        yield from source.copy_rest(Content)
        return
    while True:
        start = source.at
        yield from source.skip_space()
        mark = yield from source.literal(",", "]")
        if mark == "]":
            yield from source.skip_space()
            yield from source.literal(END)
        elif mark:
            yield from source.skip_space()
            if (yield from _call(source, tools)):
                continue
            source.at = start
        yield from source.copy_rest(Content)
        return


def _call(source: Source, tools: Tools) -> Reading[bool]:
    start = source.at
    name = yield from _name(source)
    if name not in tools or not (yield from source.literal("(")):
        source.at = start
        return False
    source.call(name)
    writer = ObjectWriter(source)
    while True:
        start = source.at
        yield from source.skip_space()
        if (yield from source.literal(")")):
            break
        if not (yield from _argument(source, writer)):
            source.at = start  # what is no argument is text
            break
    writer.close()
    return True


def _argument(source: Source, writer: ObjectWriter) -> Reading[bool]:
    key = yield from _name(source)
    yield from source.skip_space()
    if not (key and (yield from source.literal("="))):
        return False
    try:
        value = literal_value((yield from _expression(source)).strip())
    except ValueError:
        return False
    writer.member(key, dump(value))
    yield from source.literal(",")
    return True


def _name(source: Source) -> Reading[str]:
    start = source.at
    while (character := (yield from source.peek())) and (character.isalnum() or character in "_.-"):
        source.at += 1
    return source.text[start : source.at]


def _expression(source: Source) -> Reading[str]:
    """Pass the text up to the comma or the bracket that ends an argument."""
    start, depth, quote, escaped = source.at, 0, "", False
    while character := (yield from source.peek()):
        if escaped:
            escaped = False
        elif quote:
            quote, escaped = "" if character == quote else quote, character == "\\"
        elif character in "\"'":
            quote = character
        elif character in _OPEN:
            depth += 1
        elif depth == 0 and character in (",", *_CLOSE):
            break
        elif character in _CLOSE:
            depth -= 1
        source.at += 1
    return source.text[start : source.at]
