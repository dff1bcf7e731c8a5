"""`mesh data language`: which language a conversation is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from mesh.config import ConfigError, option
from training.conversations import Conversation
from training.data.tool import Dropped, Step, Tool
from webui.traits.language import LANGUAGES, UNKNOWN, language

FIELD: Final = "language"


@dataclass(frozen=True, kw_only=True)
class Language(Tool):
    """Tell the language of each conversation in a field `language`; keep some, skip some, or write a file for each."""

    keep: tuple[str, ...] = option((), "Keep this language alone, as en; may be repeated. Also: unknown.")
    skip: tuple[str, ...] = option((), "Drop this language; may be repeated. Also: unknown.")
    split: bool = option(False, "Write one file for each language: chats.en.jsonl, chats.de.jsonl.")

    def __post_init__(self) -> None:
        for code in self.keep + self.skip:
            if code not in (*LANGUAGES, UNKNOWN):
                raise ConfigError(f"'{code}' must be one of {', '.join(LANGUAGES)} or {UNKNOWN}")
        if both := set(self.keep) & set(self.skip):
            raise ConfigError(f"'{min(both)}' is both kept and skipped")

    def step(self) -> Step:
        return self._tell

    def part(self) -> Callable[[Conversation], str] | None:
        return (lambda conversation: str(conversation.extra[FIELD])) if self.split else None

    def _tell(self, conversation: Conversation) -> Iterator[Conversation | Dropped]:
        code = conversation_language(conversation)
        told = replace(conversation, extra={**conversation.extra, FIELD: code})
        if (self.keep and code not in self.keep) or code in self.skip:
            yield Dropped(told, f"language {code}")
        else:
            yield told


def conversation_language(conversation: Conversation) -> str:
    """The language of what the user and the assistant say; `unknown` where they say too little."""
    return language("\n".join(message.content for message in conversation.messages if message.role in _SPEAKERS))


_SPEAKERS: Final = ("user", "assistant")
