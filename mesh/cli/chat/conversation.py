"""The messages of a conversation and what can be done to them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import invalid

Message = dict[str, Any]
"""A message in OpenAI's form: role, content, and what else it came with."""


@dataclass
class Conversation:
    """A system message, if there is one, and all messages after it.

    An exchange is a user's message with all that follows up to the next one; the first has the number 1.
    """

    system: str | None = None
    messages: list[Message] = field(default_factory=list[Message])

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Conversation:
        """A conversation of messages; a text that comes first in the role system is its system message."""
        if messages and messages[0]["role"] == "system" and isinstance(messages[0].get("content"), str):
            return cls(messages[0]["content"], list(messages[1:]))
        return cls(None, list(messages))

    def all_messages(self) -> list[Message]:
        """What is sent and saved."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    @property
    def exchanges(self) -> list[Sequence[Message]]:
        """The messages by exchange; what stands before the first message of the user is in none."""
        starts = self._starts()
        return [self.messages[start:end] for start, end in zip(starts, [*starts, None][1:], strict=True)]

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = []

    def remove(self, number: int | None = None) -> str:
        """Forget an exchange, the last one if none is named; returns what the user had said. Raises MeshError."""
        starts = self._starts()
        if not starts:
            raise invalid("number", "there is nothing to remove yet")
        if number is not None and not 1 <= number <= len(starts):
            raise invalid("number", f"there are exchanges 1 to {len(starts)}, no {number}")
        index = len(starts) - 1 if number is None else number - 1
        removed = self.exchanges[index]
        del self.messages[starts[index] : starts[index] + len(removed)]
        return text_of(removed[0])

    def ask(self, content: Any) -> None:
        """Add what the user says."""
        self.messages.append({"role": "user", "content": content})

    def answer(self, text: str, reasoning: str) -> None:
        """Add an answer."""
        thought = {"reasoning_content": reasoning} if reasoning else {}
        self.messages.append({"role": "assistant", "content": text, **thought})

    def unanswered(self) -> Conversation:
        """The same without what follows the user's last message. Raises MeshError."""
        starts = self._starts()
        if not starts:
            raise invalid("number", "there is no answer to regenerate yet")
        return Conversation(self.system, self.messages[: starts[-1] + 1])

    def _starts(self) -> list[int]:
        return [index for index, message in enumerate(self.messages) if message["role"] == "user"]


def text_of(message: Message) -> str:
    """The text of a message; its pictures as [image]."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or f"[{str(part.get('type', 'part')).removesuffix('_url')}]" for part in content)
