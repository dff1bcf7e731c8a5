"""The traits of a conversation that was voted on: all that ratings by category and style need to know of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from webui.records import Modality, Turn
from webui.traits.language import language
from webui.traits.style import Style, style
from webui.traits.text import exact_hash, has_fence, normal_hash, pieces

# The bounds of FastChat's boards, there in tokens.
LONG_QUERY: Final = 500
SHORT_QUERY: Final = 5
# Lines that only source code has.
_CODE_LINE: Final = re.compile(
    r"^\s*(?:def \w+\(|class \w+.*[:{]$|(?:from \S+ )?import [\w., *]+$|#include\b|(?:const|let|var) \w+ ="
    r"|function \w*\(|SELECT\s.+\sFROM\s|.*[{};]$)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Traits:
    """`language` as ISO 639-1 or `unknown`; `categories` sorted; the style of each side; hashes of all prompts."""

    language: str
    categories: tuple[str, ...]
    a: Style
    b: Style
    prompt_exact: str
    prompt_normal: str


def traits(turns: Sequence[Turn], modality: Modality = "text") -> Traits:
    """The traits of the turns that a vote is about, which have two answers each."""
    prompts = [turn.prompt for turn in turns]
    asked = "\n".join(prompts)
    sides = [[turn.answers[side].text for turn in turns] for side in (0, 1)]
    return Traits(
        language(asked),
        tuple(sorted(_categories(prompts, sides, modality))),
        *(style(sides[0]), style(sides[1])),
        *(exact_hash(asked), normal_hash(asked)),
    )


def _categories(prompts: Sequence[str], sides: Sequence[Sequence[str]], modality: Modality) -> list[str]:
    length = sum(pieces(prompt) for prompt in prompts)
    holds = {
        "code": _is_code(prompts, [text for answers in sides for text in answers]),
        "image": modality == "image",
        "long_query": length >= LONG_QUERY,
        "multi_turn": len(prompts) > 1,
        "short_query": length < SHORT_QUERY,
    }
    return [name for name, held in holds.items() if held]


def _is_code(prompts: Sequence[str], answers: Sequence[str]) -> bool:
    if any(has_fence(text) for text in (*prompts, *answers)):
        return True
    return sum(len(_CODE_LINE.findall(prompt)) for prompt in prompts) >= 2
