"""Whole conversations: one or several threads, with or without a system message, typed as people type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from training.demo import arithmetic, talk
from training.demo.conversation import Conversation, Dice, Exchange
from training.demo.json_answers import JSON_SYSTEMS, json_answers, sum_as_json
from training.demo.keyboard import typed
from training.demo.lists import lists
from training.demo.project import project
from training.demo.stories import stories
from training.demo.words import MEN, WOMEN, name

Writer = Callable[[Dice], list[Exchange]]

WRITERS: dict[str, tuple[Writer, float]] = {
    "arithmetic": (arithmetic.arithmetic, 40),
    "project": (project, 16),
    "talk": (talk.talk, 16),
    "repeating": (talk.repeating, 12),
    "json": (json_answers, 12),
    "lists": (lists, 11),
    "unknown": (talk.unknown, 8),
    "stories": (stories, 5),
}
"""Each kind of thread, and how often it is drawn (stories are long, so they are drawn less often)."""

_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant that answers briefly.",
    "You are the demonstration model of the mesh.",
    "You are a friendly assistant.",
    "Be polite and answer in English.",
    "You are an assistant. Answer the questions of the user.",
    "Answer the user.",
    "You are a small language model.",
    "You are a careful and honest assistant. If you do not know something, say so.",
    "You are helpful, harmless and honest.",
)
_SYSTEM_NAMES = (
    "The user's name is {}.",
    "The name of the user is {}.",
    "You are talking to {}.",
    "The user is called {}.",
)
_JSON_ASK = ("What is {}?", "{}", "Calculate {}.", "How much is {}?", "{} = ?", "Compute {}.")


def conversations(seed: str, count: int, numbers: range | None = None) -> Iterator[Conversation]:
    """`count` conversations to learn from, in the order to learn them, or those with these numbers; the same seed
    gives the same ones.

    The first of them are lessons in copying, which nearly every kind of answer needs: a name, a value, the operands
    of a sum.
    """
    for number in range(count) if numbers is None else numbers:
        dice = Dice(f"{seed}/{number}")
        yield _with_keyboard(dice, _lesson(dice) if number < count // 20 else _conversation(dice))


def examination(seed: str, writer: Writer, count: int) -> Iterator[Conversation]:
    """`count` conversations of one thread, in wordings and with operands that training never sees."""
    for number in range(count):
        yield Conversation(None, tuple(writer(Dice(f"exam/{seed}/{number}", held_out=True))))


def _conversation(dice: Dice) -> Conversation:
    style = dice.weighted(("threads", "long", "named system", "json system"), (90, 4, 3, 3))
    if style == "json system":
        exchanges = [sum_as_json(dice, _JSON_ASK) for _ in range(dice.number(1, 3))]
        return Conversation(dice.pick(JSON_SYSTEMS), tuple(exchanges))
    if style == "named system":
        return _named_by_system(dice)
    threads = dice.number(8, 16) if style == "long" else dice.weighted((1, 2, 3, 4, 5), (55, 20, 12, 8, 5))
    exchanges = [exchange for _ in range(threads) for exchange in _thread(dice)]
    if style == "long" and dice.chance(0.5):
        who = name(dice)
        exchanges = [talk.introduction(dice, who), *_without_names(exchanges), talk.name_recall(dice, who)]
    system = dice.pick(_SYSTEMS) if dice.chance(0.25) else None
    return Conversation(system, tuple(exchanges))


def _lesson(dice: Dice) -> Conversation:
    writers: list[Writer] = [lambda dice: talk.repeating(dice, longest=24), arithmetic.arithmetic, json_answers]
    exchanges = [exchange for _ in range(3) for exchange in dice.weighted(writers, (8, 1, 1))(dice)]
    return Conversation(None, tuple(exchanges))


def _thread(dice: Dice) -> list[Exchange]:
    writers = [writer for writer, _ in WRITERS.values()]
    return dice.weighted(writers, [weight for _, weight in WRITERS.values()])(dice)


def _named_by_system(dice: Dice) -> Conversation:
    who = dice.pick(WOMEN + MEN)
    before = dice.pick(_SYSTEMS) + " " if dice.chance(0.4) else ""
    between = _without_names(_thread(dice)) if dice.chance(0.3) else []
    return Conversation(before + dice.pick(_SYSTEM_NAMES).format(who), (*between, talk.name_recall(dice, who)))


def _without_names(exchanges: list[Exchange]) -> list[Exchange]:
    return [exchange for exchange in exchanges if not exchange.kind.startswith("name")]


def _with_keyboard(dice: Dice, conversation: Conversation) -> Conversation:
    exchanges = tuple(
        replace(exchange, user=typed(dice, exchange.user, exchange.copied)) for exchange in conversation.exchanges
    )
    return replace(conversation, exchanges=exchanges)
