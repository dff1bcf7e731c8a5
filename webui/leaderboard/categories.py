"""Which votes a board counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from webui.leaderboard.ballots import Group, Tally

# Votes with these marks say nothing about the models: who answers was known, an answer broke, or the same person asked
# the same again.
VOID: Final = ("identity", "error", "moderation", "repeated")


@dataclass(frozen=True, slots=True)
class Category:
    """A part of the votes. `judged`: by a model that was asked (judge.py), not by a rule."""

    name: str
    title: str
    holds: Callable[[Group], bool]
    judged: bool = False


def _has(word: str) -> Callable[[Group], bool]:
    return lambda group: f",{word}," in group.categories


def _lacks(word: str) -> Callable[[Group], bool]:
    return lambda group: f",{word}," not in group.categories


def _speaks(code: str) -> Callable[[Group], bool]:
    return lambda group: group.language == code


_LANGUAGES: Final = {
    "en": "English",
    "zh": "Chinese",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "ru": "Russian",
    "ja": "Japanese",
    "ko": "Korean",
}
_JUDGED: Final = {
    "hard_prompt": "Hard prompts",
    "math": "Mathematics",
    "creative_writing": "Creative writing",
    "instruction_following": "Instruction following",
}
OVERALL: Final = "overall"

CATEGORIES: Final = {
    category.name: category
    for category in (
        Category(OVERALL, "Overall", lambda _: True),
        Category("code", "Code", _has("code")),
        Category("image", "With pictures", _has("image")),
        Category("long_query", "Long prompts", _has("long_query")),
        Category("multi_turn", "Several turns", _has("multi_turn")),
        Category("no_short", "Without very short prompts", _lacks("short_query")),
        Category("no_tie", "Without ties", lambda group: group.choice in ("a", "b")),
        Category("no_refusal", "Without refusals", lambda group: ",refusal," not in group.marks),
        Category("finished", "Without answers cut short", lambda group: ",unfinished," not in group.marks),
        Category("distinct", "Without frequent prompts", lambda group: group.distinct),
        *(Category(name, title, _has(name), judged=True) for name, title in _JUDGED.items()),
        *(Category(f"language_{code}", title, _speaks(code)) for code, title in _LANGUAGES.items()),
    )
}


def counts(group: Group) -> bool:
    """Whether votes of this group count at all."""
    return not any(f",{mark}," in group.marks for mark in VOID)


def in_category(tally: Tally, category: Category) -> dict[Group, int]:
    """The votes that count in a category."""
    return {group: votes for group, votes in tally.items() if counts(group) and category.holds(group)}


def present(tally: Tally) -> list[Category]:
    """The categories that some votes belong to, and not all."""
    counted = in_category(tally, CATEGORIES[OVERALL])
    everything = sum(counted.values())
    shares = {name: sum(in_category(counted, category).values()) for name, category in CATEGORIES.items()}
    return [CATEGORIES[name] for name, votes in shares.items() if name == OVERALL or 0 < votes < everything]
