"""Calls whose arguments stand one by one between tags: GLM's, and those of Qwen's coders."""

from __future__ import annotations

from mesh.dialects.source import Content, Reading, Source
from mesh.dialects.values import ObjectWriter, Tools, copy_text_value, property_schema

BEGIN, END = "<tool_call>", "</tool_call>"
KEY, KEY_END, VALUE, VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
FUNCTION, FUNCTION_END, PARAMETER, PARAMETER_END = "<function=", "</function>", "<parameter=", "</parameter>"


def glm(source: Source, tools: Tools) -> Reading[None]:
    """Text with calls in it: <tool_call>name <arg_key>key</arg_key> <arg_value>value</arg_value> … </tool_call>."""
    while (yield from source.copy_until(lambda text: source.put(Content, text), BEGIN)):
        if not (yield from _glm_call(source, tools)):
            source.put(Content, BEGIN)


def _glm_call(source: Source, tools: Tools) -> Reading[bool]:
    start = source.at
    name, mark = yield from source.up_to(KEY, END)
    name = name.strip()
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        source.at = start
        return False
    source.call(name)
    writer = ObjectWriter(source)
    while mark == KEY:
        before = source.at - len(KEY)
        key, closed = yield from source.up_to(KEY_END)
        yield from source.skip_space()
        if not (closed and (yield from source.literal(VALUE))):
            source.at = before
            break
        schema = property_schema(tools.get(name), key.strip())
        if not (yield from copy_text_value(source, writer, key.strip(), schema, VALUE_END)):
            return True
        yield from source.skip_space()
        mark = yield from source.literal(KEY, END)
    writer.close()
    return True


def qwen_xml(source: Source, tools: Tools) -> Reading[None]:
    """Text with calls in it: <function=name> <parameter=key> value </parameter> … </function>, as a rule between
    <tool_call> and </tool_call>."""
    while mark := (yield from source.copy_until(lambda text: source.put(Content, text), BEGIN, FUNCTION)):
        start, function = source.at, mark
        if mark == BEGIN:
            yield from source.skip_space()
            function = yield from source.literal(FUNCTION)
        if function and (yield from _qwen_call(source, tools)):
            yield from source.skip_space()
            yield from source.literal(END)
        else:
            source.at = start
            source.put(Content, mark)


def _qwen_call(source: Source, tools: Tools) -> Reading[bool]:
    name, mark = yield from source.up_to(">")
    name = name.strip()
    if not (mark and name):
        return False
    source.call(name)
    writer = ObjectWriter(source)
    while True:
        start = source.at
        yield from source.skip_space()
        mark = yield from source.literal(PARAMETER, FUNCTION_END)
        key, closed = (yield from source.up_to(">")) if mark == PARAMETER else ("", "")
        if not closed:
            if mark == PARAMETER:
                source.at = start
            writer.close()
            return True
        yield from source.literal("\n")
        schema = property_schema(tools.get(name), key.strip())
        ends = (f"\n{PARAMETER_END}", PARAMETER_END)
        if not (yield from copy_text_value(source, writer, key.strip(), schema, *ends)):
            return True
