"""Harmony, the format of gpt-oss: a sequence of messages, each with a channel and perhaps a recipient.

Channel `analysis` is reasoning, `final` and `commentary` are the answer, and a message to `functions.f` is a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from mesh.dialects.source import Content, Reading, Reasoning, Source

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
TOKENS: Final = (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN)
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT: Final = re.compile(r"\bto=functions\.([\w.-]+)")


def harmony(source: Source, *, calls: bool, reasoning: bool, header: bool) -> Reading[None]:
    """Messages. What is not asked for, `calls` or `reasoning`, stays in the text with its markup.

    `header`: the prompt has begun a message, whose header, or more of it, comes next.
    """
    while True:
        if header:
            yield from _message(source, calls, reasoning)
        # Between messages, in the rest of one that the prompt has begun, and in a text that has none.
        mark = yield from source.copy_until(_content(source), START, CHANNEL, END, CALL, RETURN)
        if not mark:
            return
        header = mark in (START, CHANNEL)
        if header:
            source.at -= len(mark)
        else:
            source.markup()


def _message(source: Source, calls: bool, reasoning: bool) -> Reading[None]:
    start = source.at
    if not (yield from _at_header(source)):
        return
    head, mark = yield from source.up_to(MESSAGE)
    if not mark:
        # No header, or half of one at the end of the text.
        source.put(Content, source.text[start : start + 1])
        source.at = start + 1
        return
    put = _target(source, head, calls, reasoning)
    if put is None:
        put = _content(source)
        put(source.text[start : source.at])
    if (yield from source.copy_until(put, END, CALL, RETURN)):
        source.markup()


def _at_header(source: Source) -> Reading[bool]:
    start = source.at
    yield from source.skip_space()
    mark = yield from source.literal(START, CHANNEL, MESSAGE, "to=")
    source.at = start
    return bool(mark)


def _target(source: Source, head: str, calls: bool, reasoning: bool) -> Callable[[str], None] | None:
    """Where the text of the message goes, its markup dropped; None if it stays as it is."""
    recipient, channel = _RECIPIENT.search(head), _CHANNEL.search(head)
    if recipient:
        if not calls:
            return None
        source.call(recipient[1])
        return source.arguments
    thought = channel is not None and channel[1] == "analysis"
    if thought and not reasoning:
        return None
    source.markup(Reasoning if thought else Content)
    return (lambda text: source.put(Reasoning, text)) if thought else _content(source)


def _content(source: Source) -> Callable[[str], None]:
    return lambda text: source.put(Content, text)
