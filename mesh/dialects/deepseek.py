"""DeepSeek's calls: between marks of their own, the arguments in a code block (V3, R1) or bare (V3.1)."""

from __future__ import annotations

from mesh.dialects.json_calls import copy_value
from mesh.dialects.source import Content, Reading, Source

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
FENCE = "```"


def deepseek(source: Source) -> Reading[None]:
    """Text with calls in it."""
    while (yield from source.copy_until(lambda text: source.put(Content, text), CALLS)):
        count = 0
        while (yield from _call(source)):
            count += 1
        if count:
            yield from source.skip_space()
            yield from source.literal(CALLS_END)
        else:
            source.put(Content, CALLS)


def _call(source: Source) -> Reading[bool]:
    start = source.at
    yield from source.skip_space()
    begun = yield from source.literal(CALL)
    name, separator = (yield from source.up_to(SEPARATOR)) if begun else ("", "")
    yield from source.skip_space()
    fenced = ""
    # V3 has the kind of tool before the separator, and the name after it.
    if separator and name.strip() == "function" and (yield from source.peek()) != "{":
        name, fenced = yield from source.up_to(FENCE)
        yield from source.literal("json")
        yield from source.skip_space()
    name = name.strip()
    if not (separator and name) or (yield from source.peek()) != "{":
        source.at = start
        return False
    source.call(name)
    if (yield from copy_value(source, source.arguments)):
        yield from source.skip_space()
        if fenced:
            yield from source.literal(FENCE)
        yield from source.literal(CALL_END)
    return True
