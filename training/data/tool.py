"""What a tool is: options, and a function from a conversation to conversations.

A step yields what becomes of a conversation: conversations, those it drops with the reason, and what it changed. It
runs in several processes, on one conversation at a time. What has to be known of all conversations, as which of them
are duplicates, is decided by a gate, in the main process and in the order of the input, by the mark that the other
processes gave each conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rich.console import RenderableType

from training.conversations import Conversation


@dataclass(frozen=True, slots=True)
class Dropped:
    """A conversation, or a piece of one, that goes no further. Reasons are few, since they are counted."""

    conversation: Conversation
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """Something that a tool did to a conversation, and how many times."""

    what: str
    count: int = 1


Step = Callable[[Conversation], Iterable[Conversation | Dropped | Changed]]


class Item(NamedTuple):
    """A conversation between two processes, as JSON."""

    origin: str
    line: bytes
    mark: bytes = b""
    part: str = ""
    """Which of several outputs it goes to."""


class DroppedItem(NamedTuple):
    """`Dropped` between two processes. Without a conversation, `item.line` is the record as it was found."""

    item: Item
    tool: str
    reason: str
    detail: str = ""


class Refused(NamedTuple):
    """A gate's word on an item that goes no further."""

    item: Item
    reason: str
    detail: str = ""


class Gate(Protocol):
    """Decides by the marks, in the main process and in the order of the input."""

    def decide(self, items: Iterable[Item], /) -> Iterator[Item | Refused]:
        """What goes on, and what does not."""
        ...

    def conclusion(self) -> Iterable[RenderableType]:
        """What there is to tell when all went by."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Tool:
    """The options of one tool. By itself it passes everything on."""

    def check(self) -> None:
        """Raises ConfigError if a file that the options name cannot be used; called before the first conversation."""

    def step(self) -> Step:
        """What to do with a conversation; asked for once in each process, where it loads what it needs."""
        return lambda conversation: (conversation,)

    def mark(self) -> Callable[[Conversation], bytes] | None:
        """What the gate has to know of a conversation; asked for once in each process."""
        return None

    def gate(self) -> Gate | None:
        """What decides by the marks."""
        return None

    def part(self) -> Callable[[Conversation], str] | None:
        """Which part of the output a conversation goes to: `train` of `chats.jsonl` is `chats.train.jsonl`."""
        return None
