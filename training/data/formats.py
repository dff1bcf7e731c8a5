"""`mesh data formats`: answers whose form is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mesh.config import ConfigError, option
from training.conversations import Conversation
from training.data.markdown import looks_like_html, without_code
from training.data.tool import Dropped, Step, Tool

_NUMBERED: Final = re.compile(r"^(?:(?P<indent>[ \t]*)(?P<number>\d+)[.)] |(?P<heading>#+ ))", re.MULTILINE)
_FENCE: Final = re.compile(r"^[ \t]*(`{3,}|~{3,})(.*)$", re.MULTILINE)
_SAME_NUMBER: Final = 3


def _repeats_a_number(text: str) -> bool:
    """Whether a list counts 1. 1. 1. A list within an item begins anew with each item, and all do under a heading."""
    last: dict[int, tuple[str, int]] = {}
    for line in _NUMBERED.finditer(without_code(text)):
        if line["heading"]:
            last.clear()
            continue
        indent, number = len(line["indent"].expandtabs(4)), line["number"]
        before, times = last.get(indent, ("", 0))
        last = {other: found for other, found in last.items() if other < indent}
        last[indent] = (number, times + 1 if number == before else 1)
        if last[indent][1] >= _SAME_NUMBER:
            return True
    return False


def _leaves_code_open(text: str) -> bool:
    """Whether a block of code has no end. A shorter fence, or one with words behind it, ends none."""
    opened = ""
    for fence in _FENCE.finditer(text):
        if not opened:
            opened = fence[1]
        elif fence[1].startswith(opened) and not fence[2].strip():
            opened = ""
    return bool(opened)


RULES: Final[Mapping[str, tuple[str, Callable[[str], bool]]]] = {
    "list-numbers": ("a list that counts 1. 1. 1.", _repeats_a_number),
    "open-code": ("a block of code without an end", _leaves_code_open),
    "html": ("HTML outside code", looks_like_html),
    "characters": ("characters lost in a wrong encoding", lambda text: "\ufffd" in text),
}
"""By name: why a conversation is dropped, and the check of an answer."""


@dataclass(frozen=True, kw_only=True)
class Formats(Tool):
    """Drop conversations with an answer whose form is broken."""

    rule: tuple[str, ...] = option(tuple(RULES), f"Check this: {', '.join(RULES)}; may be repeated.")

    def __post_init__(self) -> None:
        for name in self.rule:
            if name not in RULES:
                raise ConfigError(f"--rule must be one of {', '.join(RULES)}, not '{name}'")

    def step(self) -> Step:
        return self._check

    def _check(self, conversation: Conversation) -> Iterator[Conversation | Dropped]:
        for place, message in enumerate(conversation.everything, 1):
            if message.role != "assistant":
                continue
            for reason, broken in (RULES[name] for name in self.rule):
                if broken(message.content):
                    yield Dropped(conversation, reason, f"message {place}")
                    return
        yield conversation
