"""How people really type: no capitals, no full stop, a slip of the finger, a please."""

from __future__ import annotations

import re

from training.demo.conversation import Dice

_OPENINGS = ("Hi, ", "Hello, ", "Please ", "Hey, ", "Ok, ", "Can you help me? ", "So, ", "Now ", "hi! ", "Well, ")
_CLOSINGS = (" please", ", please", " Thanks!", " thank you", " Please.", " ok?")
_REWORDINGS = (
    ("How do I ", "How can I ", "How do you ", "How does one ", "What must I do to ", "Tell me how to ", "How to "),
    ("How can I ", "How do I ", "How could I ", "I want to know how I can ", "Show me how to "),
    ("How does ", "In which way does ", "Can you explain how does ", "So how does "),
    ("What happens ", "What will happen ", "And what happens ", "What would happen ", "Tell me what happens "),
    ("What if ", "What happens if ", "And if ", "What happens when "),
    ("Which ", "What ", "Tell me which ", "And which ", "Do you know which "),
    ("What is ", "What's ", "Whats ", "Tell me what is ", "Do you know what is ", "Can you say what is "),
    ("What are ", "Tell me what are ", "And what are ", "Which are "),
    ("Who ", "And who ", "Tell me who ", "Do you know who ", "So who "),
    ("Where ", "And where ", "Tell me where ", "Do you know where "),
    ("Why ", "And why ", "Tell me why ", "Can you say why "),
    ("Can I ", "May I ", "Could I ", "Is it possible to ", "Am I able to ", "Can you "),
    ("Are you ", "So are you ", "Tell me, are you ", "R u ", "Are u "),
    ("Do you ", "So do you ", "Tell me, do you ", "Do u "),
    ("Tell me ", "Can you tell me ", "Please tell me ", "Could you tell me ", "I want to hear ", "Say "),
    ("Give me ", "Can you give me ", "Please give me ", "Could you give me ", "I need ", "I want ", "Show me "),
    ("Explain ", "Can you explain ", "Please explain ", "Could you explain ", "I want to understand "),
    ("Write ", "Can you write ", "Please write ", "Could you write ", "I want you to write "),
    ("List ", "Can you list ", "Please list ", "Write down ", "Could you list "),
)
"""Ways to begin a question, each followed by others that ask much the same."""


def typed(dice: Dice, text: str, copied: bool) -> str:
    """`text` as somebody might type it. With `copied`, case and spelling inside the text stay as they are."""
    if dice.chance(0.3):
        text = _reworded(dice, text)
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


def _reworded(dice: Dice, text: str) -> str:
    fitting = [row for row in _REWORDINGS if text.startswith(row[0])]
    if not fitting:
        return text
    beginning, *others = dice.pick(fitting)
    return dice.pick(others) + text.removeprefix(beginning)


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
