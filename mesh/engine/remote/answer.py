"""What the readers of all providers' streams share: the state of one answer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mesh.engine.base import FinishReason
from mesh.errors import ErrorKind, MeshError

Body = TypeVar("Body")
Piece = tuple[int, str]
"""A choice and its next text."""


@dataclass(slots=True)
class Usage:
    """Token counts as the provider tells them; all 0 until it has."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How a choice ended."""

    reason: FinishReason
    stop_string: str | None = None


class Answer(ABC):
    """Reads one answer. `done` once the provider has said that nothing follows."""

    def __init__(self, choices: int) -> None:
        self.choices = choices
        self.ends: dict[int, End] = {}
        self.usage = Usage()
        self.done = False

    @abstractmethod
    def read(self, event: str, data: str) -> list[Piece]:
        """Take a server-sent event and return the text in it. Raises MeshError if it tells of a failure."""

    @property
    def complete(self) -> bool:
        """Whether every choice has its end."""
        return len(self.ends) == self.choices

    def check_choice(self, choice: int) -> int:
        """Refuse a choice that nobody asked for."""
        if not 0 <= choice < self.choices:
            raise broken(f"the provider speaks of choice {choice}; {self.choices} were asked for")
        return choice


def call_text(name: str, arguments: str) -> str:
    """A function call as text, in the notation that many open models write: an answer here has nothing but text."""
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments or "{}"}}}\n</tool_call>'


def decode(decoder: msgspec.json.Decoder[Body], data: str) -> Body:
    """The typed form of an event's data."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise broken(f"the provider sent an event that is not of its API: {error}") from None


def end_reason(word: str, stop: frozenset[str], length: frozenset[str]) -> FinishReason:
    """A provider's word for the end of a choice. Raises MeshError for an answer that was withheld or broke off."""
    if word in stop:
        return FinishReason.STOP
    if word in length:
        return FinishReason.LENGTH
    raise withheld(word)


def withheld(why: str) -> MeshError:
    """The provider, or its model, did not want to answer: another worker of the same model would not either."""
    return MeshError(ErrorKind.FORBIDDEN, f"the provider withheld the answer: {why}")


def broken(message: str) -> MeshError:
    """The provider failed."""
    return MeshError(ErrorKind.ENGINE_FAILED, message)
