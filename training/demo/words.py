"""The words that the writers share: numbers, names, things, and words that mean nothing."""

from __future__ import annotations

from training.demo.conversation import Dice

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

WOMEN = (
    "Anna Maria Lena Ida Nora Clara Rosa Emma Julia Mina Tara Sofia Alice Ruth Eva Helen Iris Olga Paula Vera "
    "Lucy Grace Mary Jane Kate Sara Laura Amy Zoe Priya Mei Yuki Fatima Amina Ingrid Carmen"
).split()
MEN = (
    "Tom Ben Leo Max Otto Paul Jonas Felix Oscar Hugo Karl Emil Adam David Peter Mark Simon Victor Ravi Omar "
    "Ivan Luis Marco Finn Jack John James Sam Bob Alex Daniel Ali Kenji Chen Pedro Henry"
).split()
CITIES = (
    "Rome Paris Berlin London Madrid Vienna Oslo Lisbon Tokyo Delhi Cairo Lima Boston Dublin Prague Athens "
    "Warsaw Zurich Toronto Sydney"
).split()
JOBS = "teacher baker doctor farmer nurse pilot cook painter driver writer engineer gardener".split()

_STARTS = "b bl br c ch d dr f fl g gl gr h j k kl l m n p pl pr qu r s sh sk sl st t th tr v w y z".split()
_VOWELS = "a e i o u a e i o ai ea ee ou oo y".split()
_ENDS = " n r l s t m k d nd st x sh ck p ng th".split(" ")


def in_words(number: int) -> str:
    """`number` from 0 to 99 in English words."""
    if number < 20:
        return UNITS[number]
    ten, unit = divmod(number, 10)
    return TENS[ten - 2] + (f"-{UNITS[unit]}" if unit else "")


def nonsense(dice: Dice) -> str:
    """A word that means nothing, of one to three syllables.

    Such words teach the model to copy what it has never seen, and to say so when it knows nothing about it.
    """
    syllables = dice.weighted((1, 2, 3), (2, 5, 3))
    return "".join(dice.pick(_STARTS) + dice.pick(_VOWELS) + dice.pick(_ENDS) for _ in range(syllables))


def name(dice: Dice) -> str:
    """A first name: mostly a real one, sometimes an invented one, sometimes typed in lower case."""
    known = dice.pick(WOMEN + MEN) if dice.chance(0.5) else nonsense(dice).capitalize()
    return known.lower() if dice.chance(0.15) else known


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
