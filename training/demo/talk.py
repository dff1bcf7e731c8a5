"""Small talk, a few simple facts, saying a text again, and owning up to what the model does not know."""

from __future__ import annotations

from itertools import chain

from training.demo.conversation import Check, Dice, Exchange, is_exactly, says, says_one_of
from training.demo.list_items import CATEGORIES
from training.demo.small_talk import FACTS, OPPOSITES, TALK, TOPICS, UNKNOWN, UNKNOWN_SAYINGS
from training.demo.words import CITIES, JOBS, name, nonsense

_OPPOSITE = (
    "What is the opposite of {}?",
    "What is the contrary of {}?",
    "Tell me the opposite of {}.",
    "opposite of {}",
    "Give me the opposite of {}.",
    "What's the opposite of {}?",
    "Which word is the opposite of {}?",
    "Do you know the opposite of {}?",
    "Say the opposite of {}.",
)
_REPEAT = (
    "Repeat after me: {}",
    "Say: {}",
    "Please repeat: {}",
    "Repeat this: {}",
    "Say this: {}",
    "Echo: {}",
    "Write exactly this: {}",
    "Can you say: {}",
)
_MY_NAME = (
    "My name is {}.",
    "I am {}.",
    "Hi, I am {}.",
    "Hello, my name is {}.",
    "Call me {}.",
    "I'm {}.",
    "Hey, my name is {}!",
    "Hello! I am {}, nice to meet you.",
    "you can call me {}",
    "Hi! My name's {}.",
)
_WHAT_NAME = (
    "What is my name?",
    "Do you remember my name?",
    "What's my name?",
    "Who am I?",
    "Can you tell me my name?",
    "Tell me my name.",
    "do you know my name?",
    "Do you still know my name?",
    "Say my name.",
)
_LIKES = (
    "I like {}.",
    "I love {}.",
    "My favourite thing is {}.",
    "I really like {}!",
    "I enjoy {} a lot.",
    "My hobby is {}.",
)
_WHAT_LIKES = ("What do I like?", "Do you remember what I like?", "What did I say I like?", "Tell me what I like.")

_KNOWN = (*(word for topic in TOPICS for word in topic.split()), *CITIES, *JOBS, *chain(*CATEGORIES.values()))

DO_NOT_KNOW = (
    "I do not know that. I am a small demonstration model: ask me about the mesh, a small sum, a list, JSON "
    "or a story.",
    "I am sorry, that is more than I know. I can tell a short story, do small sums, write lists and JSON, and explain "
    "the mesh.",
    "That is beyond me, because I am only a very small model. For such questions, point the mesh at a real model with "
    "--model-path.",
)
TOO_LARGE = (
    "Those numbers are too large for me. I only do small sums, such as 12 + 7.",
    "I can only do sums with small numbers, such as 12 + 7.",
)
_LARGE = ("What is {}?", "{}", "Calculate {}.", "How much is {}?", "{} =", "Compute {}.")


def owns_up() -> Check:
    """A check: the answer says that the model does not know."""
    return says_one_of("do not know", "more than I know", "beyond me", "too large", "small numbers")


def talk(dice: Dice) -> list[Exchange]:
    """A piece of small talk."""
    writer = dice.weighted((_chat, _fact, _opposite, _acquaintance, _liking), (50, 12, 8, 25, 5))
    return writer(dice)


def unknown(dice: Dice) -> list[Exchange]:
    """A request for something that the model cannot do."""
    writer = dice.weighted((_unknown_topic, _unknown_saying, _large_sum, _gibberish), (60, 20, 12, 8))
    return [writer(dice)]


def small_talk(dice: Dice, subject: str) -> Exchange:
    """One exchange on a subject of `TALK`."""
    piece = TALK[subject]
    return Exchange("small talk", dice.phrase(piece.users), dice.pick(piece.answers), says_one_of(*piece.signs))


def introduction(dice: Dice, who: str) -> Exchange:
    answers = (f"Nice to meet you, {who}! How can I help you?", f"Hello {who}, it is good to meet you.")
    return Exchange("name", dice.phrase(_MY_NAME).format(who), dice.pick(answers), says(who), copied=True)


def name_recall(dice: Dice, who: str) -> Exchange:
    return Exchange("name, recalled", dice.phrase(_WHAT_NAME), f"Your name is {who}.", says(who))


def _chat(dice: Dice) -> list[Exchange]:
    return [small_talk(dice, dice.pick(tuple(TALK)))]


def _fact(dice: Dice) -> list[Exchange]:
    fact = dice.pick(FACTS)
    return [Exchange("simple fact", dice.phrase(fact.users), dice.pick(fact.answers), says(*fact.signs))]


def _opposite(dice: Dice) -> list[Exchange]:
    pair = dice.pick(OPPOSITES)
    word, other = pair if dice.chance(0.5) else (pair[1], pair[0])
    answer = f"The opposite of {word} is {other}."
    return [Exchange("opposite", dice.phrase(_OPPOSITE).format(word), answer, says(f"is {other}"))]


def repeating(dice: Dice, longest: int = 14) -> list[Exchange]:
    """A text to say again: one to `longest` words of any kind.

    There are more of these than anybody will ask for: every token of the answer is a copy, which is how the model
    learns to copy a name or a value in all its other answers.
    """
    text = " ".join(_any_word(dice) for _ in range(dice.number(1, longest)))
    user = dice.phrase(_REPEAT).format(text)
    return [Exchange("repeating", user, text, is_exactly(text), copied=True)]


def _any_word(dice: Dice) -> str:
    source = dice.weighted(("known", "name", "invented", "number"), (5, 3, 3, 1))
    if source == "name":
        return name(dice)
    if source == "invented":
        return nonsense(dice)
    return str(dice.number(0, 99)) if source == "number" else dice.pick(_KNOWN)


def _acquaintance(dice: Dice) -> list[Exchange]:
    who = name(dice)
    if dice.chance(0.15):
        answer = "You have not told me your name yet."
        return [Exchange("name", dice.phrase(_WHAT_NAME), answer, says("not told"))]
    exchanges = [introduction(dice, who)]
    if dice.chance(0.7):
        between = dice.pick(("how are you", "joke", "thanks", "glad"))
        if dice.chance(0.4):
            exchanges.append(small_talk(dice, between))
        exchanges.append(name_recall(dice, who))
    return exchanges


def _liking(dice: Dice) -> list[Exchange]:
    what = dice.pick(TOPICS)
    said = dice.pick((f"It is good that you like {what}.", f"So you like {what}. I will remember that."))
    first = Exchange("liking", dice.phrase(_LIKES).format(what), said, says(what), copied=True)
    answer = f"You like {what}."
    return [first, Exchange("liking, recalled", dice.pick(_WHAT_LIKES), answer, says(what))]


def _unknown_topic(dice: Dice) -> Exchange:
    topic = dice.phrase(TOPICS) if dice.chance(0.6) else nonsense(dice)
    if dice.chance(0.2):
        topic = f"{nonsense(dice)} {topic}"
    topic = topic.capitalize() if dice.chance(0.2) else topic
    return Exchange("unknown", dice.phrase(UNKNOWN).format(topic), dice.pick(DO_NOT_KNOW), owns_up())


def _unknown_saying(dice: Dice) -> Exchange:
    return Exchange("unknown", dice.phrase(UNKNOWN_SAYINGS), dice.pick(DO_NOT_KNOW), owns_up())


def _gibberish(dice: Dice) -> Exchange:
    user = " ".join(nonsense(dice) for _ in range(dice.number(1, 12)))
    return Exchange("unknown", user, dice.pick(DO_NOT_KNOW), owns_up())


def _large_sum(dice: Dice) -> Exchange:
    left, right = dice.number(200, 10 ** dice.number(3, 8)), dice.number(100, 10 ** dice.number(3, 8))
    shown = f"{left} {dice.pick(('+', '-', '*', '/', 'times', 'plus', 'minus'))} {right}"
    return Exchange("unknown", dice.phrase(_LARGE).format(shown), dice.pick(TOO_LARGE), owns_up())
