"""Short stories from plots: what happens is fixed by the plot, who and where and how by the dice."""

from __future__ import annotations

from training.demo.conversation import Check, Dice, Exchange
from training.demo.plots import CLOSINGS, EVENINGS, PLOTS
from training.demo.words import MEN, WOMEN, nonsense, with_article

HEROES = (
    "fox cat dog rabbit bear owl mouse robot girl boy sailor baker dragon turtle horse king queen gardener wizard "
    "penguin frog bird elephant lion wolf duck goat pig knight farmer pilot fish tiger monkey squirrel princess "
    "computer giant clown shepherd"
).split()
_PLACES = (
    "a quiet village",
    "a green valley",
    "a small house by the sea",
    "an old forest",
    "a town on a hill",
    "a cottage near the river",
    "a village at the foot of a mountain",
    "a busy town",
)
_KINDS = "small brave clever shy cheerful patient kind curious lonely old young".split()
_THINGS = (
    "a silver key",
    "a red kite",
    "a little bell",
    "a golden ring",
    "an old map",
    "a blue lamp",
    "a wooden flute",
    "a warm hat",
)
_FRIENDS = (
    "an old owl",
    "a friendly dog",
    "a wise turtle",
    "a small bird",
    "a kind neighbour",
    "a quiet stranger",
    "a merry sailor",
)

_ABOUT = (
    "Tell me a story about {}.",
    "Write a short story about {}.",
    "Tell me a short story about {}.",
    "Can you tell me a story about {}?",
    "I would like a story about {}.",
    "Write a story about {}",
    "A story about {}, please.",
    "Make up a story about {}.",
    "Give me a story about {}.",
    "Could you write a tale about {}?",
    "story about {}",
    "Please write a story with {} in it.",
    "Tell a tale of {}.",
    "I want to hear a story about {}.",
    "Do you know a story about {}?",
    "Invent a story about {}.",
)
_ANY = (
    "Tell me a story.",
    "Write a short story.",
    "Can you tell me a story?",
    "I want to hear a story.",
    "Tell me a bedtime story.",
    "Story time!",
    "Make up a story.",
    "Do you know a good story?",
    "Write a story for my children.",
    "Please tell me something nice before I sleep.",
    "Entertain me with a story.",
    "a story please",
    "Could you tell us a short story?",
    "I am bored, tell me a story.",
    "Give me a short story.",
    "Invent a little story.",
)
_LONG = (
    "Tell me a long story about {}.",
    "Write a long story about {}.",
    "Write a longer story about {}.",
    "Can you tell me a long story about {}?",
    "I would like a very long story about {}.",
    "Please write a long tale about {}.",
    "A long story about {}, please.",
    "Make up a long story about {}.",
)
_ANOTHER = (
    "Another one.",
    "Tell me another one.",
    "One more, please.",
    "Another story!",
    "And another one?",
    "Now another one",
    "Can I have another story?",
    "One more story.",
)
_AND_ABOUT = (
    "Now one about {}.",
    "And one about {}?",
    "Another one, about {}.",
    "Can you tell one about {}?",
    "What about a story with {}?",
    "And now about {}",
    "Now tell me one about {}.",
)


def stories(dice: Dice) -> list[Exchange]:
    """One story, sometimes with another one asked for after it."""
    style = dice.weighted(("about", "any", "long"), (6, 3, 2))
    exchanges = [_request(dice, style)]
    if dice.chance(0.2):
        hero = _hero(dice)
        if dice.chance(0.5):
            user = dice.phrase(_AND_ABOUT).format(with_article(hero))
            exchanges.append(_exchange(dice, user, hero, mentioned=True))
        else:
            exchanges.append(_exchange(dice, dice.phrase(_ANOTHER), hero, mentioned=False))
    return exchanges


def _request(dice: Dice, style: str) -> Exchange:
    hero = _hero(dice)
    if style == "any":
        return _exchange(dice, dice.phrase(_ANY), dice.pick(HEROES), mentioned=False)
    asked = f"{dice.pick(_KINDS)} {hero}" if dice.chance(0.15) else hero
    wordings = _LONG if style == "long" else _ABOUT
    user = dice.phrase(wordings).format(with_article(asked))
    return _exchange(dice, user, hero, mentioned=True, long=style == "long")


def _hero(dice: Dice) -> str:
    return dice.pick(HEROES) if dice.chance(0.8) else nonsense(dice)


def _exchange(dice: Dice, user: str, hero: str, mentioned: bool, long: bool = False) -> Exchange:
    check = _tells_of(hero if mentioned else "", 120 if long else 45)
    kind = "story, long" if long else "story"
    return Exchange(kind, user, _tell(dice, hero, long), check, copied=hero not in HEROES)


def _tells_of(hero: str, words: int) -> Check:
    """A check: the hero is in the story, and it is a story of at least so many words that comes to an end."""

    def check(answer: str) -> bool:
        return hero in answer and len(answer.split()) >= words and answer.rstrip()[-1] in '.!"'

    return check


def _tell(dice: Dice, hero: str, long: bool) -> str:
    woman = hero in ("girl", "queen", "princess") or (hero not in ("boy", "king") and dice.chance(0.5))
    facts = {
        "hero": hero,
        "a_kind": with_article(dice.pick(_KINDS)),
        "name": dice.pick(WOMEN if woman else MEN),
        "he": "she" if woman else "he",
        "He": "She" if woman else "He",
        "his": "her" if woman else "his",
        "him": "her" if woman else "him",
        "place": dice.pick(_PLACES),
        "thing": dice.pick(_THINGS),
        "friend": dice.pick(_FRIENDS),
    }
    facts["the_thing"] = "the " + facts["thing"].split(" ", 1)[1]
    facts["the_friend"] = "the " + facts["friend"].split(" ", 1)[1]
    plots = dice.sample(PLOTS, 1)
    sentences = [dice.pick(options).format(**facts) for options in plots[0]]
    if long:
        second = dice.pick([plot for plot in PLOTS if plot is not plots[0]])
        sentences.append(dice.pick(EVENINGS).format(**facts))
        sentences += [dice.pick(options).format(**facts) for options in second[1:]]
    sentences.append(dice.pick(CLOSINGS).format(**facts))
    return " ".join(sentences)
