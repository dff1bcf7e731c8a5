"""Answers that are JSON and nothing else: given values, invented values, arrays, results."""

from __future__ import annotations

import json
from collections.abc import Callable

from training.demo import arithmetic
from training.demo.conversation import Check, Dice, Exchange
from training.demo.list_items import CATEGORIES
from training.demo.words import CITIES, JOBS, MEN, WOMEN, in_words, name

Value = str | int | bool
Maker = Callable[[Dice], Value]

_BOOKS = ("The Long River", "A Quiet Night", "Seven Stones", "The Blue Door", "Winter Bread", "The Last Map")

KEYS: dict[str, Maker] = {
    "name": lambda dice: dice.pick(WOMEN + MEN),
    "age": lambda dice: dice.number(3, 90),
    "city": lambda dice: dice.pick(CITIES),
    "country": lambda dice: dice.pick(CATEGORIES["countries"]),
    "job": lambda dice: dice.pick(JOBS),
    "hobby": lambda dice: dice.pick(CATEGORIES["hobbies"]),
    "colour": lambda dice: dice.pick(CATEGORIES["colours"]),
    "color": lambda dice: dice.pick(CATEGORIES["colors"]),
    "animal": lambda dice: dice.pick(CATEGORIES["animals"]),
    "fruit": lambda dice: dice.pick(CATEGORIES["fruits"]),
    "title": lambda dice: dice.pick(_BOOKS),
    "author": lambda dice: dice.pick(WOMEN + MEN),
    "year": lambda dice: dice.number(1900, 2025),
    "price": lambda dice: dice.number(1, 99),
    "count": lambda dice: dice.number(1, 20),
    "size": lambda dice: dice.pick(("small", "medium", "large")),
    "language": lambda dice: dice.pick(CATEGORIES["languages"]),
    "active": lambda dice: dice.chance(0.5),
    "id": lambda dice: dice.number(1, 99),
}

_GIVEN = (
    "Give me a JSON object with {}.",
    "Write JSON with {}.",
    "Return a JSON object with {}.",
    "Make a JSON object: {}.",
    "Answer in JSON: {}.",
    "Put this into JSON: {}",
    "Convert to JSON: {}",
    "Create JSON for {}.",
    "I need a JSON object with {}.",
    "json with {}",
    "Turn this into JSON: {}",
    "Please write this as JSON: {}.",
    "Can you make JSON from {}?",
    "Show {} as JSON.",
    "Format as JSON: {}",
    "Produce a JSON object with {}.",
)
_INVENT = (
    "Give me a JSON object with the keys {}.",
    "Invent a JSON object with the keys {}.",
    "Return JSON with the fields {}.",
    "Write an example JSON object with {}.",
    "Make up JSON data with the keys {}.",
    "I need example JSON with the fields {}.",
    "Return a JSON object that has the keys {}.",
    "Answer with a JSON object with {}.",
    "Generate JSON with the keys {}.",
    "Create a JSON object with the fields {}.",
)
_THINGS: dict[str, tuple[str, ...]] = {
    "a person": ("name", "age", "city"),
    "a user": ("id", "name", "active"),
    "a book": ("title", "author", "year"),
    "a fruit": ("fruit", "colour", "price"),
    "a pet": ("animal", "name", "age"),
    "a worker": ("name", "job", "age"),
    "a product": ("id", "colour", "price"),
    "a friend": ("name", "hobby", "city"),
}
_DESCRIBE = (
    "Describe {} as JSON.",
    "Give me {} as JSON.",
    "Write {} as a JSON object.",
    "Return {} in JSON.",
    "Show me {} in JSON format.",
    "An example of {} in JSON, please.",
    "Make up {} and answer in JSON.",
    "Invent {} as JSON.",
)
_PERSON = (
    "JSON: {name}, who is {age} and lives in {city}.",
    "{name}, {age}, {city} as a JSON object.",
    "Write JSON for this person: {name}, {age} years, {city}.",
    "I know {name} from {city}, who is {age}. Put that into JSON.",
    "Please make JSON of this: {name} lives in {city} and is {age}.",
    "A JSON object for {name} ({age}) from {city}.",
    "In {city} lives {name}, aged {age}. Can you write that as JSON?",
    "Convert to JSON: {age}-year-old {name} from {city}.",
    "{name} comes from {city}. {name} is {age}. JSON, please.",
    "Answer in JSON: {name}, aged {age}, living in {city}.",
    "{name} is {age} years old and lives in {city}. Write that as JSON.",
    "Make JSON for a person named {name} who is {age} years old and lives in {city}.",
    "Give me JSON for {name}, age {age}, from {city}.",
    "Turn this into JSON: {name} is {age} and lives in {city}.",
    "A person called {name} lives in {city} and is {age} years old. JSON please.",
    "As JSON: {name}, {age} years old, {city}.",
)
_ARRAY = (
    "Give me a JSON array of {n} {what}.",
    "List {n} {what} as JSON.",
    "Return {n} {what} as a JSON array.",
    "Write a JSON list of {n} {what}.",
    "{n} {what} as JSON, please.",
    "Name {n} {what} in JSON.",
    "Make a JSON array with {n} {what}.",
    "Show {n} {what} as a JSON list.",
)
_SUM = (
    "What is {}? Answer in JSON.",
    "Give me the result of {} as JSON.",
    "Calculate {} and answer in JSON.",
    "Answer with JSON: what is {}?",
    "Compute {}. Return JSON.",
    "As JSON: {}",
)
JSON_SYSTEMS = (
    "Answer in JSON.",
    "You answer only with JSON.",
    "Always reply with valid JSON and nothing else.",
    "Respond in JSON format.",
)


def json_answers(dice: Dice) -> list[Exchange]:
    """One request for JSON."""
    writer = dice.weighted((_given, _person, _invent, _describe, _array, _sum), (35, 15, 15, 12, 15, 8))
    return writer(dice)


def sum_as_json(dice: Dice, wordings: tuple[str, ...]) -> Exchange:
    """A sum whose result is asked for as `{"result": …}`."""
    sign = dice.weighted("+-*", (4, 4, 3))
    left, right = arithmetic.operands(dice, sign)
    user = dice.phrase(wordings).format(arithmetic.expression(dice, left, sign, right))
    answer = json.dumps({"result": arithmetic.solve(left, sign, right)})
    return Exchange("JSON, result", user, answer, _equals(answer))


def _given(dice: Dice) -> list[Exchange]:
    keys = _keys(dice, dice.number(1, 4))
    values = {key: name(dice) if key in ("name", "author") else KEYS[key](dice) for key in keys}
    pair = dice.weighted(("{} {}", "{}: {}", "{}={}", "{} is {}", "the {} {}"), (5, 4, 2, 2, 2))
    pairs = [pair.format(key, _shown(value)) for key, value in values.items()]
    joined = _joined(dice, pairs)
    answer = json.dumps(values)
    user = dice.phrase(_GIVEN).format(joined)
    return [Exchange("JSON, given values", _capital(user), answer, _equals(answer), copied=True)]


def _person(dice: Dice) -> list[Exchange]:
    values: dict[str, Value] = {"name": name(dice), "age": dice.number(3, 90), "city": dice.pick(CITIES)}
    answer = json.dumps(values)
    user = dice.phrase(_PERSON).format(**values)
    return [Exchange("JSON, given values", user, answer, _equals(answer), copied=True)]


def _invent(dice: Dice) -> list[Exchange]:
    keys = _keys(dice, dice.number(2, 4))
    return [_invented(dice, dice.phrase(_INVENT).format(_joined(dice, keys)), keys)]


def _describe(dice: Dice) -> list[Exchange]:
    thing = dice.pick(tuple(_THINGS))
    return [_invented(dice, dice.phrase(_DESCRIBE).format(thing), list(_THINGS[thing]))]


def _invented(dice: Dice, user: str, keys: list[str]) -> Exchange:
    answer = json.dumps({key: KEYS[key](dice) for key in keys})
    return Exchange("JSON, invented values", _capital(user), answer, _has_keys(keys), copied=True)


def _array(dice: Dice) -> list[Exchange]:
    kind = dice.pick(tuple(CATEGORIES))
    count = min(dice.number(2, 6), len(CATEGORIES[kind]))
    number = in_words(count) if dice.chance(0.5) else str(count)
    user = _capital(dice.phrase(_ARRAY).format(n=number, what=kind))
    answer = json.dumps(dice.sample(CATEGORIES[kind], count))
    return [Exchange("JSON, array", user, answer, _is_array_of(kind, count))]


def _sum(dice: Dice) -> list[Exchange]:
    return [sum_as_json(dice, _SUM)]


def _shown(value: Value) -> Value:
    """A value as people write it next to its key: bare, and true or false as JSON has them."""
    return json.dumps(value) if isinstance(value, bool) else value


def _keys(dice: Dice, count: int) -> list[str]:
    """Keys in any order, with one spelling of colour."""
    first = ["name"] if dice.chance(0.6) else []
    others = [key for key in KEYS if key not in ("name", dice.pick(("color", "colour")))]
    rest = dice.sample(others, count)
    rest.sort(key=lambda _: dice.number(0, 99))
    return (first + rest)[:count]


def _joined(dice: Dice, parts: list[str]) -> str:
    if len(parts) == 1 or dice.chance(0.4):
        return ", ".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _parsed(answer: str) -> object:
    try:
        return json.loads(answer)
    except json.JSONDecodeError:
        return None


def _equals(expected: str) -> Check:
    """A check: the answer is JSON of the same value."""
    return lambda answer: _parsed(answer) == json.loads(expected)


def _has_keys(keys: list[str]) -> Check:
    """A check: the answer is a JSON object with these keys and no others."""

    def check(answer: str) -> bool:
        value = _parsed(answer)
        return isinstance(value, dict) and set(value) == set(keys)  # pyright: ignore[reportUnknownArgumentType]

    return check


def _is_array_of(kind: str, count: int) -> Check:
    """A check: the answer is a JSON array of so many different members of the kind."""

    def check(answer: str) -> bool:
        value = _parsed(answer)
        if not isinstance(value, list):
            return False
        items = [str(item) for item in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return len(items) == len(set(items)) == count and set(CATEGORIES[kind]).issuperset(items)

    return check
