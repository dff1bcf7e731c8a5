"""Speculation without a second model: a row guesses its next tokens from its own text (prompt lookup).

A guess costs a search through the row's tokens, and its check the computation of the guessed tokens beside the next
one in the same step. It never changes an answer: a guessed token counts only if sampling yields the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

# So many of the newest tokens must have occurred before; longer matches are better and tried first.
_MATCHES: Final = (4, 3, 2)
_LONGEST_PAUSE: Final = 32
_TOKEN = "i"
_BYTES: Final = array(_TOKEN).itemsize


class Drafter:
    """Guesses that what followed the newest tokens the last time they occurred will follow again.

    After a guess that was wholly wrong it is silent for some tokens, each time for twice as many.
    """

    __slots__ = ("_pause", "_silent_until", "_text")

    def __init__(self) -> None:
        self._text = bytearray()  # the tokens of fixed width: searched much faster than a list
        self._pause = 0
        self._silent_until = 0

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that may follow `tokens`, which have only grown since the last call."""
        if len(tokens) < self._silent_until:
            return []
        self._text += array(_TOKEN, tokens[len(self._text) // _BYTES :]).tobytes()
        for length in _MATCHES:
            after = self._last_occurrence(length) if len(tokens) > length else None
            if after is not None:
                return list(tokens[after : after + most])
        return []

    def learn(self, right: int, length: int) -> None:
        """Note how many tokens of the last guess were right; the row has `length` tokens now."""
        self._pause = 0 if right else min(2 * self._pause or 1, _LONGEST_PAUSE)
        self._silent_until = length + self._pause

    def _last_occurrence(self, length: int) -> int | None:
        """The place after the last earlier occurrence of the newest `length` tokens."""
        text = self._text
        newest = text[-length * _BYTES :]
        place = text.rfind(newest, 0, -_BYTES)
        while place % _BYTES and place > 0:  # bytes that are no whole tokens
            place = text.rfind(newest, 0, place + len(newest) - 1)
        return place // _BYTES + length if place >= 0 else None
