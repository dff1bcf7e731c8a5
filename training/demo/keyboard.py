"""How people really type: no capitals, no full stop, a slip of the finger, a please."""

from __future__ import annotations

import re

from training.demo.conversation import Dice

_OPENINGS = ("Hi, ", "Hello, ", "Please ", "Hey, ", "Ok, ", "Can you help me? ", "So, ", "Now ", "hi! ", "Well, ")
_CLOSINGS = (" please", ", please", " Thanks!", " thank you", " Please.", " ok?")


def typed(dice: Dice, text: str, copied: bool) -> str:
    """`text` as somebody might type it. With `copied`, case and spelling inside the text stay as they are."""
    text = _polite(dice, text)
    if not copied and dice.chance(0.12):
        text = _slip(dice, text)
    if dice.chance(0.25):
        text = text.rstrip(".?!")
    elif dice.chance(0.06):
        text += dice.pick(("!", "?", "..", " ?", "??"))
    if copied:
        return text[:1].lower() + text[1:] if dice.chance(0.3) else text
    case = dice.weighted((str, str.lower, str.upper), (0.62, 0.35, 0.03))
    return case(text)


def _polite(dice: Dice, text: str) -> str:
    if dice.chance(0.06) and text[:1].isalpha():
        text = dice.pick(_OPENINGS) + text[:1].lower() + text[1:]
    if dice.chance(0.05):
        text = text.rstrip(".!") + dice.pick(_CLOSINGS)
    return text


def _slip(dice: Dice, text: str) -> str:
    """One slip in one longer word: two letters swapped, one left out, or one typed twice."""
    words = [found.span() for found in re.finditer(r"[a-z]{5,}", text)]
    if not words:
        return text
    start, end = dice.pick(words)
    at = dice.number(start + 1, end - 2)
    slips = (
        text[:at] + text[at + 1] + text[at] + text[at + 2 :],
        text[:at] + text[at + 1 :],
        text[:at] + text[at] + text[at:],
    )
    return dice.pick(slips)
