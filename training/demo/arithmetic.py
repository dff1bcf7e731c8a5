"""Small arithmetic in digits and in words, alone, in a small story, and carried on over several turns."""

from __future__ import annotations

from training.demo.conversation import Check, Dice, Exchange
from training.demo.words import in_words, name

_SIGNS = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "times", "x", "×", "multiplied by")}

_ASK = (
    "What is {}?",
    "{}",
    "What's {}?",
    "Calculate {}.",
    "How much is {}?",
    "{} = ?",
    "Compute {}",
    "Can you tell me what {} is?",
    "Solve {}.",
    "Tell me {}.",
    "What does {} make?",
    "{} =",
    "I need to know {}.",
    "Please work out {}.",
    "What is the result of {}?",
    "What do you get for {}?",
    "Could you calculate {} for me?",
    "What does {} equal?",
    "quick: {}",
    "How much does {} give?",
    "Do you know what {} is?",
    "Give me the answer to {}.",
    "Find {}.",
    "Can you work out {} for me?",
)
_AND_THEN = (
    "And {sign} {n}?",
    "and {sign} {n}",
    "Now {sign} {n}.",
    "{sign} {n}?",
    "What about {sign} {n}?",
    "And then {sign} {n}?",
    "Then {sign} {n}",
    "ok, and {sign} {n}?",
)
_NAMED = {
    "+": ("the sum of {} and {}", "{} added to {}", "the total of {} and {}"),
    "-": ("the difference of {} and {}", "{} less {}"),
    "*": ("the product of {} and {}",),
}
_THINGS = "apples books coins pens cakes stones eggs cards shells stamps flowers keys".split()
_GAINS = (
    "{who} had {a} {things}. Then {who} got {b} more. How many are there now?",
    "I own {a} {things} and get {b} as a present. How many do I own?",
    "There were {a} {things} on a shelf, and {b} were added. How many is that together?",
    "In the morning {who} sold {a} {things}, in the evening {b}. How many were sold?",
    "{who} has {a} {things}, I have {b}. How many do we have together?",
    "We had {a} {things} and made {b} more. How many {things} do we have?",
    "First there are {a} {things}, then {b} come to them. What is the total?",
    "One bag holds {a} {things}, another one {b}. How many {things} are in both?",
    "I have {a} {things} and buy {b} more. How many {things} do I have?",
    "{who} has {a} {things} and finds {b} more. How many {things} does {who} have now?",
    "There are {a} {things} in a box. I put in {b} more. How many are there?",
    "If I have {a} {things} and you give me {b}, how many {things} do I have?",
    "{a} {things} are on the table and {b} {things} are on the floor. How many {things} are there in all?",
    "{who} bought {a} {things} on Monday and {b} on Friday. How many {things} is that?",
)
_LOSSES = (
    "{who} had {a} {things} and ate {b}. How many are left?",
    "I had {a} {things}, but {b} broke. How many do I still have?",
    "{who} owned {a} {things} and sold {b} of them. How many does {who} still own?",
    "There were {a} {things} on a shelf, and {b} were taken away. How many are there now?",
    "Of {a} {things}, {b} are gone. How many remain?",
    "We made {a} {things} and gave {b} to {who}. How many did we keep?",
    "{who} finds {a} {things} and drops {b}. How many does {who} have in the end?",
    "A bag held {a} {things}. {who} took {b} out. How many {things} are still in it?",
    "I have {a} {things} and lose {b}. How many {things} are left?",
    "{who} has {a} {things} and gives away {b}. How many {things} are left?",
    "There are {a} {things} in a box. I take out {b}. How many stay in the box?",
    "If I have {a} {things} and sell {b}, how many {things} remain?",
    "{a} {things} were on the table. {b} fell down. How many are still there?",
    "{who} had {a} {things} and lost {b} of them. How many does {who} have now?",
)
_BIGGER = (
    "Which is bigger, {} or {}?",
    "What is larger: {} or {}?",
    "Is {} or {} bigger?",
    "Which number is greater, {} or {}?",
    "{} or {}, which one is more?",
    "Tell me the bigger one of {} and {}.",
    "Which of {} and {} is the larger number?",
)


def arithmetic(dice: Dice) -> list[Exchange]:
    """One problem, or a first problem and one to three that carry its result on."""
    writer = dice.weighted((_problem, _chain, _story, _three, _bigger), (60, 14, 12, 7, 7))
    return writer(dice)


def solve(left: int, sign: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def result_is(number: int) -> Check:
    """A check: the answer's equation ends with exactly this number."""
    return lambda answer: f"= {number}." in answer + "."


def operands(dice: Dice, sign: str) -> tuple[int, int]:
    """Two numbers: within twenty most of the time, of two digits else; times within the table of twelve.

    The multiplication table is a table to be learnt, so no pair of it is kept from training.
    """
    if sign == "*":
        return dice.number(0, 12), dice.number(0, 12)
    high = dice.weighted((10, 20, 99), (30, 50, 20))

    def draw() -> tuple[int, int]:
        first, second = dice.number(0, high), dice.number(0, high)
        return (max(first, second), min(first, second)) if sign == "-" and dice.chance(0.9) else (first, second)

    return dice.apart(draw)


def expression(dice: Dice, left: int, sign: str, right: int) -> str:
    """The problem as somebody would write it: `7 + 5`, `7+5`, `seven plus five`, `the sum of 7 and 5`."""
    style = dice.weighted(("signs", "words", "mixed", "tight", "named"), (40, 22, 15, 15, 8))
    if style == "tight":
        return f"{left}{dice.pick(('*', 'x') if sign == '*' else (sign,))}{right}"
    if style == "named":
        form = dice.pick(_NAMED[sign])
        return form.format(left, right)
    spelt = style == "words"
    operator = _SIGNS[sign][0] if style == "signs" else dice.pick(_SIGNS[sign][1:])
    return f"{in_words(left) if spelt else left} {operator} {in_words(right) if spelt else right}"


def equation(left: int, sign: str, right: int) -> str:
    return f"{left} {sign} {right} = {solve(left, sign, right)}."


def _problem(dice: Dice) -> list[Exchange]:
    sign = dice.weighted("+-*", (4, 4, 3))
    left, right = operands(dice, sign)
    user = dice.phrase(_ASK).format(expression(dice, left, sign, right))
    kind = "arithmetic, two digits" if sign != "*" and max(left, right) > 20 else "arithmetic"
    return [_exchange(kind, user[0].upper() + user[1:], left, sign, right)]


def _exchange(kind: str, user: str, left: int, sign: str, right: int) -> Exchange:
    return Exchange(kind, user, equation(left, sign, right), result_is(solve(left, sign, right)))


def _chain(dice: Dice) -> list[Exchange]:
    exchanges = _problem(dice)
    result = int(exchanges[0].answer.rstrip(".").rpartition(" ")[2])
    for _ in range(dice.number(1, 3)):
        if not 0 <= result <= 50:
            break
        sign = dice.weighted("+-*", (5, 4, 2)) if 0 < result <= 12 else dice.pick("+-")
        step = dice.number(1, 10) if sign != "-" else dice.number(0, max(1, min(10, result)))
        word = dice.pick(_SIGNS[sign])
        shown = in_words(step) if dice.chance(0.3) else str(step)
        user = dice.phrase(_AND_THEN).format(sign=word, n=shown)
        exchanges.append(_exchange("arithmetic, carried on", user, result, sign, step))
        result = solve(result, sign, step)
    return exchanges


def _story(dice: Dice) -> list[Exchange]:
    sign = dice.pick("+-")
    left, right = dice.number(1, 20), dice.number(1, 20)
    if sign == "-":
        left, right = max(left, right), min(left, right)
    things, who = dice.pick(_THINGS), name(dice).capitalize()
    told = dice.phrase(_GAINS if sign == "+" else _LOSSES)
    numbers = (in_words(left), in_words(right)) if dice.chance(0.3) else (str(left), str(right))
    user = told.format(a=numbers[0], b=numbers[1], things=things, who=who)
    user = user[0].upper() + user[1:]
    result = solve(left, sign, right)
    answer = f"{left} {sign} {right} = {result}. The answer is {result}."
    return [Exchange("arithmetic, word problem", user, answer, result_is(result))]


def _three(dice: Dice) -> list[Exchange]:
    numbers = [dice.number(1, 10) for _ in range(3)]
    shown = dice.pick((" + ", "+", " plus ")).join(map(str, numbers))
    answer = f"{' + '.join(map(str, numbers))} = {sum(numbers)}."
    return [Exchange("arithmetic", dice.phrase(_ASK).format(shown), answer, result_is(sum(numbers)))]


def _bigger(dice: Dice) -> list[Exchange]:
    high = dice.pick((10, 20, 99))
    first, second = dice.number(0, high), dice.number(0, high)
    while first == second:
        second = dice.number(0, high)
    most, least = max(first, second), min(first, second)
    answer = f"{most} is bigger than {least}."
    return [Exchange("comparison", dice.phrase(_BIGGER).format(first, second), answer, says_first(most))]


def says_first(number: int) -> Check:
    """A check: the answer begins with this number."""
    return lambda answer: answer.startswith(f"{number} ")
