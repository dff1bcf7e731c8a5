"""Text that comes in pieces, and the parts that a parser makes of it.

Parsers are generators over a Source: they read on as if the text were whole, and a bare `yield` inside the Source waits
for more. What they make of a text cannot depend on how it was cut, as long as they decide nothing on what has merely
not come yet: the methods below wait until they know.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")
Reading = Generator[None, None, Result]
"""A parser, or a piece of one, on its way to a result."""


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the function `name` begins."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments, JSON text, of the call that began last."""

    text: str


Part = Content | Reasoning | Call | Arguments
TextKind = type[Content] | type[Reasoning]


class Source:
    """The text so far, a place in it, and the parts so far.

    White space next to markup belongs to the markup: it is held back until it is known what follows. All other text
    becomes parts as soon as it can be told from markup.
    """

    __slots__ = ("_after_markup", "_kind", "_parts", "_space", "at", "ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._parts: list[Part] = []
        self._kind: TextKind = Content
        self._space = ""
        self._after_markup = False

    # Parts

    def put(self, kind: TextKind, text: str) -> None:
        """Report text of this kind."""
        if self._after_markup:
            text = text.lstrip()
            if not text:
                return
            self._after_markup = False
        self._kind = kind
        solid = text.rstrip()
        if solid:
            self._parts.append(kind(self._space + solid))
            self._space = ""
        self._space += text[len(solid) :]

    @property
    def reasons(self) -> bool:
        """Whether the text at hand is reasoning."""
        return self._kind is Reasoning

    def markup(self, kind: TextKind = Content) -> None:
        """Here is markup, and text of this kind after it: drop the white space on both sides."""
        self._kind = kind
        self._space = ""
        self._after_markup = True

    def call(self, name: str) -> None:
        """Report that a call begins."""
        self.markup()
        self._parts.append(Call(name))

    def arguments(self, text: str) -> None:
        """Report arguments of the last call."""
        if text:
            self._parts.append(Arguments(text))

    def take(self) -> list[Part]:
        """The parts since the last time, neighbours of a kind joined."""
        if self.ended and self._space:
            self._parts.append(self._kind(self._space))
            self._space = ""
        parts, self._parts = self._parts, []
        return joined(parts)

    # Text

    def drop(self) -> None:
        """Forget the text before `at`: nobody will go back there."""
        self.text = self.text[self.at :]
        self.at = 0

    def peek(self) -> Reading[str]:
        """The next character; empty at the end of the text."""
        while self.at >= len(self.text) and not self.ended:
            yield
        return self.text[self.at : self.at + 1]

    def skip_space(self) -> Reading[None]:
        """Go on to the next character that is no white space."""
        while (yield from self.peek()).isspace():
            self.at += 1

    def literal(self, *options: str) -> Reading[str]:
        """Pass whichever of `options`, none a beginning of another, comes next, and return it; empty if none does."""
        longest = max(map(len, options))
        while True:
            ahead = self.text[self.at : self.at + longest]
            for option in options:
                if ahead.startswith(option):
                    self.at += len(option)
                    return option
            if self.ended or not any(option.startswith(ahead) for option in options):
                return ""
            yield

    def up_to(self, *markers: str, limit: int = 256) -> Reading[tuple[str, str]]:
        """Pass the text before the first of `markers`, and that marker; return both.

        Two empty strings, and no step forward, if none comes within `limit` characters.
        """
        longest = max(map(len, markers))
        while True:
            place, marker = self._find(markers)
            if marker and place - self.at <= limit:
                text = self.text[self.at : place]
                self.at = place + len(marker)
                return text, marker
            if self.ended or len(self.text) - self.at >= limit + longest:
                return "", ""
            yield

    def copy_until(self, put: Callable[[str], None], *markers: str) -> Reading[str]:
        """Hand on the text before the first of `markers`, and pass that; empty at the end of the text.

        A marker may end like another one, but not begin like it or have it in its middle.
        """
        while True:
            self.drop()
            place, marker = self._find(markers)
            if marker:
                put(self.text[:place])
                self.at = place + len(marker)
                return marker
            self.at = len(self.text) - (0 if self.ended else _begun(self.text, markers))
            put(self.text[: self.at])
            if self.ended:
                return ""
            yield

    def copy_rest(self, kind: TextKind) -> Reading[None]:
        """Report all that follows as text of this kind."""
        while True:
            self.put(kind, self.text[self.at :])
            self.at = len(self.text)
            if self.ended:
                return
            yield
            self.drop()

    def _find(self, markers: Sequence[str]) -> tuple[int, str]:
        found = [(place, marker) for marker in markers if (place := self.text.find(marker, self.at)) >= 0]
        return min(found, default=(-1, ""))


class Reader:
    """Feeds a parser. Pure: the parts depend on the text alone, not on its pieces."""

    __slots__ = ("_parser", "_source")

    def __init__(self, parse: Callable[[Source], Reading[None]]) -> None:
        self._source = Source()
        self._parser = parse(self._source)
        next(self._parser, None)

    @property
    def reasons(self) -> bool:
        """Whether the text after what was fed is, as far as is known, reasoning."""
        return self._source.reasons

    def feed(self, text: str) -> list[Part]:
        """The parts that are known with this piece."""
        self._source.text += text
        next(self._parser, None)
        return self._source.take()

    def finish(self) -> list[Part]:
        """The parts that are known now that no more is to come."""
        self._source.ended = True
        for _ in self._parser:
            pass
        return self._source.take()


def joined(parts: Sequence[Part]) -> list[Part]:
    """The same with neighbours of a kind, but for calls, as one."""
    result: list[Part] = []
    for part in parts:
        last = result[-1] if result else None
        if last is not None and not isinstance(part, Call) and type(last) is type(part):
            assert not isinstance(last, Call)
            result[-1] = type(part)(last.text + part.text)
        else:
            result.append(part)
    return result


def _begun(text: str, markers: Sequence[str]) -> int:
    """How many characters at the end of the text may be the beginning of a marker."""
    for size in range(min(len(text), max(map(len, markers), default=0) - 1), 0, -1):
        tail = text[-size:]
        if any(marker.startswith(tail) for marker in markers):
            return size
    return 0
