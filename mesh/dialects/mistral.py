"""Mistral's calls: [TOOL_CALLS][{"name": …, "arguments": {…}}, …], and since 2025 [TOOL_CALLS]name[ARGS]{…}."""

from __future__ import annotations

from mesh.dialects.json_calls import copy_value, read_calls
from mesh.dialects.source import Content, Reading, Source

MARK = "[TOOL_CALLS]"
_ARGS, _ID = "[ARGS]", "[CALL_ID]"


def mistral(source: Source) -> Reading[None]:
    """Text with calls in it."""
    while (yield from source.copy_until(lambda text: source.put(Content, text), MARK)):
        yield from source.skip_space()
        if (yield from source.peek()) in ("[", "{"):
            found = yield from read_calls(source)
        else:
            found = yield from _named(source)
        if not found:
            source.put(Content, MARK)


def _named(source: Source) -> Reading[bool]:
    start = source.at
    name, mark = yield from source.up_to(_ARGS, _ID)
    if mark == _ID:
        _, mark = yield from source.up_to(_ARGS)
    yield from source.skip_space()
    name = name.strip()
    if not (mark and name) or (yield from source.peek()) != "{":
        source.at = start
        return False
    source.call(name)
    yield from copy_value(source, source.arguments)
    return True
