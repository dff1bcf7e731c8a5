"""Lists: things of a kind, steps of a task, counting and other rows that have an order."""

from __future__ import annotations

import json
import re

from training.demo.conversation import Check, Dice, Exchange, is_exactly
from training.demo.list_items import CATEGORIES, ROWS, STEPS
from training.demo.words import in_words

_NAME = (
    "Name {n} {what}.",
    "List {n} {what}.",
    "Give me {n} {what}.",
    "Give me a list of {n} {what}.",
    "Write down {n} {what}.",
    "Can you name {n} {what}?",
    "Tell me {n} {what}.",
    "Please list {n} {what}.",
    "I need {n} {what}.",
    "Make a list of {n} {what}.",
    "Show me {n} {what}.",
    "Which {n} {what} do you know?",
    "{n} {what}",
    "What are {n} {what}?",
    "Could you list {n} {what}?",
    "Write a list of {n} {what}.",
)
_SOME = (
    "Name some {what}.",
    "List a few {what}.",
    "Give me some {what}.",
    "Make a list of {what}.",
    "A list of {what}, please.",
    "Which {what} do you know?",
    "List {what}.",
    "Can you list some {what}?",
)
_STYLES = {
    "numbered": ("as a numbered list", "in a numbered list", "with numbers", "numbered"),
    "bulleted": ("as a bulleted list", "with bullet points", "as bullets", "in bullet points"),
    "line": ("in one line", "separated by commas", "with commas", "on a single line"),
}
_AGAIN = {
    "numbered": ("As a numbered list.", "Now with numbers.", "Number them, please."),
    "bulleted": ("As bullet points.", "Now as a bulleted list.", "Use bullets instead."),
    "line": ("In one line, please.", "Now separated by commas.", "Put them on one line."),
    "json": ("As JSON.", "And now as JSON.", "Give me that as a JSON array.", "as json please", "Now in JSON"),
}
_HOW = (
    "How do I {}?",
    "List the steps to {}.",
    "What are the steps to {}?",
    "Explain step by step how to {}.",
    "How can I {}?",
    "Give me the steps to {}.",
    "Tell me how to {}.",
    "I want to {}. What do I do?",
    "how to {}",
    "Steps to {}, please.",
    "Can you tell me how to {}?",
    "Write down how to {}.",
)
_COUNT = (
    "Count from {} to {}.",
    "Can you count from {} to {}?",
    "Write the numbers from {} to {}.",
    "List the numbers from {} to {}.",
    "Count {} to {}",
    "Please count from {} to {}.",
    "Show me all numbers from {} to {}.",
    "Say the numbers from {} to {}.",
)


def lists(dice: Dice) -> list[Exchange]:
    """One list, sometimes written again in another style."""
    writer = dice.weighted((_things, _steps, _count, _row), (60, 18, 12, 10))
    return writer(dice)


def written(items: list[str], style: str) -> str:
    if style == "numbered":
        return "\n".join(f"{place}. {item}" for place, item in enumerate(items, 1))
    if style == "bulleted":
        return "\n".join(f"- {item}" for item in items)
    if style == "json":
        return json.dumps(items)
    return ", ".join(items)


def members(kind: str, count: int, style: str) -> Check:
    """A check: so many different members of the kind, in this style."""
    known = {item.lower() for item in CATEGORIES[kind]}

    def check(answer: str) -> bool:
        lines = answer.split(", ") if style == "line" else answer.strip().splitlines()
        sign = {"numbered": r"\d+\. ", "bulleted": "- ", "line": ""}[style]
        items = [re.sub(f"^{sign}", "", line).strip().lower() for line in lines if re.match(sign, line)]
        return len(items) == len(set(items)) == count and known.issuperset(items)

    return check


def _things(dice: Dice) -> list[Exchange]:
    kind = dice.pick(tuple(CATEGORIES))
    counted = dice.chance(0.85)
    count = min(dice.number(2, 8), len(CATEGORIES[kind])) if counted else 4
    style = dice.weighted(("numbered", "bulleted", "line"), (2, 1, 1))
    asked = style != "numbered" or dice.chance(0.3)
    number = in_words(count) if dice.chance(0.5) else str(count)
    user = dice.phrase(_NAME if counted else _SOME).format(n=number, what=kind)
    user = user[0].upper() + user[1:]
    if asked:
        user = f"{user.rstrip('.?')} {dice.pick(_STYLES[style])}{user[len(user.rstrip('.?')) :]}"
    items = dice.sample(CATEGORIES[kind], count)
    exchanges = [Exchange("list", user, written(items, style), members(kind, count, style))]
    if dice.chance(0.25):
        again = dice.pick([other for other in _AGAIN if other != style])
        answer = written(items, again)
        exchanges.append(Exchange("list, again", dice.pick(_AGAIN[again]), answer, is_exactly(answer)))
    return exchanges


def _steps(dice: Dice) -> list[Exchange]:
    task = dice.pick(tuple(STEPS))
    steps = STEPS[task]
    answer = written(steps, "numbered")
    return [Exchange("list of steps", dice.phrase(_HOW).format(task), answer, is_exactly(answer))]


def _count(dice: Dice) -> list[Exchange]:
    first = 1 if dice.chance(0.7) else dice.number(0, 20)
    last = first + dice.weighted((4, 9, 14, 19, 29, dice.number(2, 30)), (2, 4, 1, 2, 1, 6))
    answer = ", ".join(str(number) for number in range(first, last + 1))
    user = dice.phrase(_COUNT).format(first, last)
    if first == 1 and dice.chance(0.3):
        user = f"Count to {last}."
    return [Exchange("counting", user, answer, is_exactly(answer))]


def _row(dice: Dice) -> list[Exchange]:
    row = dice.pick(ROWS)
    answer = ", ".join(row.items)
    return [Exchange("list in order", dice.phrase(row.questions), answer, is_exactly(answer))]
