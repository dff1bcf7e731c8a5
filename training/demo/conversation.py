"""What a writer of conversations produces, and the dice it throws."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

Check = Callable[[str], bool]
"""Says whether an answer is right; the examination calls it, training does not."""


@dataclass(frozen=True)
class Exchange:
    """One user message with the answer to learn.

    `copied` marks a user message whose words or signs the answer repeats: the keyboard (`keyboard.py`)
    leaves the spelling of such a message alone.
    """

    kind: str
    user: str
    answer: str
    check: Check
    copied: bool = False


@dataclass(frozen=True)
class Conversation:
    """An optional system message and one or more exchanges, oldest first."""

    system: str | None
    exchanges: tuple[Exchange, ...]

    def messages(self) -> list[dict[str, str]]:
        """All messages in the form that chat templates take."""
        turns: list[dict[str, str]] = []
        if self.system is not None:
            turns.append({"role": "system", "content": self.system})
        for exchange in self.exchanges:
            turns.append({"role": "user", "content": exchange.user})
            turns.append({"role": "assistant", "content": exchange.answer})
        return turns


class Dice:
    """Seeded choices, on one side of the line between training and examination.

    `phrase` and `apart` draw from disjoint parts of what there is to say: with `held_out` the part that
    training never sees, without it the rest. Everything else is common to both sides.
    """

    def __init__(self, seed: str, held_out: bool = False) -> None:
        self.held_out = held_out
        self._random = random.Random(seed)

    def phrase(self, wordings: Sequence[str]) -> str:
        """One wording of a request. The last eighth of a table of six or more is held out."""
        if len(wordings) < 6:
            return self.pick(wordings)
        kept = len(wordings) - max(1, len(wordings) // 8)
        return self.pick(wordings[kept:] if self.held_out else wordings[:kept])

    def apart(self, draw: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        """A pair of operands: one in eleven pairs is held out, by a fixed rule on the pair itself.

        Eleven, not ten: every pair of last digits has to occur in training, or a sum of larger numbers could not be
        learnt digit by digit.
        """
        while True:
            first, second = draw()
            if ((first * 7 + second * 3) % 11 == 4) == self.held_out:
                return first, second

    def pick(self, options: Sequence[T]) -> T:
        return self._random.choice(options)

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        return self._random.choices(options, weights)[0]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options in the order of the table, so that a list never repeats itself."""
        places = sorted(self._random.sample(range(len(options)), count))
        return [options[place] for place in places]

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return self._random.randint(low, high)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability


def says(*words: str) -> Check:
    """A check: every one of `words` is in the answer, whatever its case."""
    return lambda answer: all(word.lower() in answer.lower() for word in words)


def says_one_of(*words: str) -> Check:
    """A check: at least one of `words` is in the answer, whatever its case."""
    return lambda answer: any(word.lower() in answer.lower() for word in words)


def is_exactly(expected: str) -> Check:
    """A check: the answer is `expected` and nothing else."""
    return lambda answer: answer.strip() == expected.strip()
