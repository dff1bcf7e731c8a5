"""What is asked for answers, and what an answer is made of."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.errors import MeshError

# What came within so many seconds came at once, out of some buffer on the way.
_LEAST_WRITING = 0.01

Body = Mapping[str, Any]
"""A chat as the body of POST /v1/chat/completions has it: model, messages, and options by OpenAI's names."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of an answer, or of the reasoning before it."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The answer is complete. `reason`: stop or length; counts in tokens, None if nobody told."""

    reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


Event = Piece | End


class Endpoint(Protocol):
    """Answers chats. `where` says in a few words where that is."""

    @property
    def where(self) -> str: ...

    def models(self) -> list[str]:
        """Names of the models, adapters last. Raises ConnectionError if nobody answers, MeshError if it refuses."""
        ...

    def answer(self, body: Body) -> Generator[Event]:
        """Pieces as they come, then the end. Closing the iterator ends the generation. Raises as `models` does."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Answer:
    """One answer as it comes, with its times in seconds."""

    def __init__(self, began: float | None = None) -> None:
        """`began`: when it was due, a time of time.monotonic(); unset: now."""
        self.end: End | None = None
        self._texts: dict[bool, list[str]] = {False: [], True: []}
        self._began = time.monotonic() if began is None else began
        self._first: float | None = None
        self._last = self._began

    def take(self, event: Event) -> None:
        """Note an event, now."""
        if isinstance(event, End):
            self.end = event
            return
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._texts[event.reasoning].append(event.text)

    @property
    def text(self) -> str:
        """The answer itself."""
        return "".join(self._texts[False])

    @property
    def reasoning(self) -> str:
        """What was thought before it."""
        return "".join(self._texts[True])

    @property
    def tokens(self) -> int:
        """Tokens of the answer, reasoning included; their pieces if it was broken off, which may be fewer."""
        if self.end is not None and self.end.completion_tokens is not None:
            return self.end.completion_tokens
        return sum(map(len, self._texts.values()))

    @property
    def first_token(self) -> float | None:
        """Time to the first token; None if there was none."""
        return None if self._first is None else self._first - self._began

    @property
    def seconds(self) -> float:
        """Time to the last token."""
        return self._last - self._began

    @property
    def writing(self) -> float:
        """Time from the first token to the last."""
        return 0.0 if self._first is None else self._last - self._first

    @property
    def tokens_per_second(self) -> float | None:
        """Pace after the first token; None of an answer too short to have one."""
        return (self.tokens - 1) / self.writing if self.writing >= _LEAST_WRITING else None


def sentence(error: Exception) -> str:
    """An error in one line for people: what is wrong, its code, and when to try again."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, MeshError):
        return " ".join(str(error).split())
    later = "" if error.retry_after is None else f"; try again in {error.retry_after:g} s"
    return f"{' '.join(error.message.split())} ({error.code}){later}"
