"""`mesh data clean`: pages of chats become conversations that a model can learn from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from mesh.config import option
from training.conversations import Conversation, Message
from training.data.markdown import looks_like_html, to_markdown
from training.data.tool import Changed, Dropped, Step, Tool

# What copying from a chat page leaves in Markdown: the words of its buttons.
_COPY_CODE: Final = re.compile(r"^(```+)[ \t]*\n?([\w+#.-]*)Copy code[ \t]*`?\n?", re.MULTILINE)
_PAGER: Final = re.compile(r"\A\s*\d+ / \d+[ \t]*\n")
_COUNTER: Final = re.compile(r"^Copy ?\d+ chars / \d+ words[ \t]*\n?", re.MULTILINE)
_NEXT: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({"system", "user"}),
    "system": frozenset({"system", "user"}),
    "user": frozenset({"assistant"}),
    "assistant": frozenset({"user", "tool"}),
    "tool": frozenset({"tool", "assistant"}),
}
"""Whose turn may follow whose."""


@dataclass(frozen=True, kw_only=True)
class Clean(Tool):
    """Turn HTML into Markdown, remove what chat pages add, and drop conversations that are none."""

    html: Literal["assistant", "all", "none"] = option(
        "assistant", "Whose messages may be HTML: assistant, all or none. What people wrote is often about HTML."
    )
    min_chars: int = option(16, "Drop conversations of fewer characters.", low=0)

    def step(self) -> Step:
        return self._clean

    def _clean(self, given: Conversation) -> Iterator[Conversation | Dropped | Changed]:
        try:
            converted = given.map(self._without_html)
        except RecursionError:
            yield Dropped(given, "HTML nested too deeply")
            return
        tidy = converted.map(_without_buttons)
        yield from _differences(given, converted, "HTML turned into Markdown")
        yield from _differences(converted, tidy, "words of buttons removed")
        if given.rejected:
            yield _checked(given, tidy, self.min_chars)
            return
        cut = tidy
        for what, part in _cuts(tidy.messages):
            if len(part) < len(cut.messages):
                yield Changed(what, len(cut.messages) - len(part))
                cut = replace(cut, messages=part)
        yield _checked(given, cut, self.min_chars)

    def _without_html(self, message: Message) -> Message:
        asked = self.html == "all" or (self.html == "assistant" and message.role == "assistant")
        if not asked or not looks_like_html(message.content):
            return message
        return replace(message, content=to_markdown(message.content))


def _differences(before: Conversation, after: Conversation, what: str) -> Iterator[Changed]:
    count = sum(
        1 for one, other in zip(before.everything, after.everything, strict=True) if one.content != other.content
    )
    if count:
        yield Changed(what, count)


def _without_buttons(message: Message) -> Message:
    if message.role != "assistant":
        return message
    text = _COPY_CODE.sub(r"\1\2\n", message.content)
    return replace(message, content=_COUNTER.sub("", _PAGER.sub("", text)))


def _cuts(messages: tuple[Message, ...]) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """What is left after each cut, and what was cut off."""
    start = next((place for place, message in enumerate(messages) if message.role == "user"), len(messages))
    system = tuple(message for message in messages[:start] if message.role == "system")
    left = system + messages[start:]
    yield "messages before the first of the user removed", left
    end = next((place for place, message in enumerate(left) if _is_empty(message)), len(left))
    left = left[:end]
    yield "messages from the first empty one on removed", left
    while left and (left[-1].role != "assistant" or left[-1].calls):
        left = left[:-1]
    yield "messages without an answer removed", left


def _is_empty(message: Message) -> bool:
    return not message.content.strip() and not message.calls


def _checked(given: Conversation, cleaned: Conversation, min_chars: int) -> Conversation | Dropped:
    if not cleaned.messages:
        return Dropped(given, "no question with an answer")
    answers = [cleaned.messages]
    if cleaned.rejected:
        answers.append(cleaned.messages[: cleaned.prompt_length] + cleaned.rejected)
    for messages in answers:
        for place, message in enumerate(messages):
            if _is_empty(message):
                return Dropped(given, "an empty message", f"message {place + 1}")
            before = messages[place - 1].role if place else ""
            if message.role not in _NEXT[before]:
                where = f"message {place + 1}: {message.role} after {before or 'nothing'}"
                return Dropped(given, "roles out of order", where)
    size = sum(len(message.text) for message in cleaned.everything)
    if size < min_chars:
        return Dropped(given, f"fewer than {min_chars} characters", str(size))
    return cleaned
