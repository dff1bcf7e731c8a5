"""What a judge decided, read from its words: as strictly as the protocol states it, and never guessed.

A verdict stands in double brackets, in ASCII: [[7]], [[A]], [[A>>B]]. It may be repeated; two different ones are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Side = Literal["A", "B", "tie"]
LOWEST, HIGHEST = 1, 10

_RATING: Final = re.compile(r"\[\[([0-9]+(?:\.[0-9]*)?)\]\]")
# The protocol's second try. What is an index of something, x[1], or part of [[…]] is none.
_SINGLE_RATING: Final = re.compile(r"(?<![\w\])\[])\[([0-9]+(?:\.[0-9]*)?)\](?!\])")
_CHOICE: Final = re.compile(r"\[\[([ABC])\]\]")
_FIVE_WAY: Final = re.compile(r"\[\[([AB](?:>>?|<<?|=)[AB])\]\]")
# <think>, <thinking>, Mistral's [THINK]. Some templates open the block themselves, so that the text has its end only.
_THINKING: Final = re.compile(
    r"\s*(?:<think(?:ing)?>|\[THINK\])(.*?)(?:</think(?:ing)?>\s*|\[/THINK\]\s*|\Z)"
    r"|((?:(?!<think|\[THINK).)*?)(?:</think>|\[/THINK\])\s*",
    re.DOTALL,
)
_SIDES: Final[dict[str, Side]] = {"A": "A", "B": "B", "C": "tie"}


@dataclass(frozen=True, slots=True)
class Rating:
    """A grade from 1 to 10."""

    score: int | float


@dataclass(frozen=True, slots=True)
class Preference:
    """Who is better. `label` is how the judge put it if there are five levels."""

    side: Side
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Unscored:
    """No verdict, and why."""

    reason: str


def rating(words: str) -> Rating | Unscored:
    """The one grade in a judge's words."""
    found = _RATING.findall(words) or _SINGLE_RATING.findall(words)
    if not found:
        return Unscored(_nothing(words, "rating such as [[5]]"))
    values = {float(text) for text in found}
    if len(values) > 1:
        return Unscored(f"several ratings: {', '.join(dict.fromkeys(found))}")
    text = found[0]
    score = float(text) if "." in text else int(text)
    if not LOWEST <= score <= HIGHEST:
        return Unscored(f"rating {text} is not between {LOWEST} and {HIGHEST}")
    return Rating(score)


def preference(words: str) -> Preference | Unscored:
    """The one of [[A]], [[B]] and [[C]] in a judge's words."""
    found = dict.fromkeys(_CHOICE.findall(words))
    if len(found) == 1:
        return Preference(_SIDES[next(iter(found))])
    return Unscored(f"several verdicts: {', '.join(found)}" if found else _nothing(words, "[[A]], [[B]] or [[C]]"))


def five_way(words: str) -> Preference | Unscored:
    """The one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]] and [[B>>A]], also written the other way round: [[B<A]]."""
    found = dict.fromkeys(_canonical(label) for label in _FIVE_WAY.findall(words) if label[0] != label[-1])
    if len(found) != 1:
        return Unscored(f"several verdicts: {', '.join(found)}" if found else _nothing(words, "[[A>B]] or its like"))
    label = next(iter(found))
    return Preference("tie" if "=" in label else _SIDES[label[0]], label)


def _canonical(label: str) -> str:
    """The better one first."""
    sign = label[1:-1]
    if sign == "=":
        return "A=B"
    return label if ">" in sign else label[-1] + sign.replace("<", ">") + label[0]


def _nothing(words: str, wanted: str) -> str:
    return f"no {wanted} in the judge's words" if words.strip() else "the judge said nothing"


def split_thinking(text: str) -> tuple[str, str]:
    """What a model thought, in a block at the start of its answer, and the answer."""
    match = _THINKING.match(text)
    return ((match[1] or match[2] or "").strip(), text[match.end() :]) if match else ("", text)
