"""Questions about this project, and the true answers to them.

A topic is asked in two ways: by its names in a common frame ("what is the gateway?"), and in questions of its
own. Each topic's answers say the same in other words; its keywords are what no right answer leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.demo.conversation import Dice, Exchange, says
from training.demo.project_facts import FACTS, HOWTO

_FRAMES = (
    "What is {}?",
    "What does {} do?",
    "What's {}?",
    "Explain {}.",
    "Tell me about {}.",
    "What do you know about {}?",
    "Can you explain {}?",
    "Describe {}.",
    "What is {} for?",
    "Why is there {}?",
    "How would you describe {}?",
    "{}?",
    "Please explain {} to me.",
    "Explain {} in simple words.",
    "Give me a short explanation of {}.",
    "I do not understand {}.",
    "What is the job of {}?",
    "What is meant by {}?",
    "In this project, what is {}?",
    "So what exactly is {}?",
    "How does {} work?",
    "What role does {} play?",
    "I want to learn about {}.",
    "What can you tell me about {}?",
    "Could you tell me what {} is?",
    "Please describe {}.",
)
_MORE = (
    "And {}?",
    "What about {}?",
    "And what is {}?",
    "ok, and {}?",
    "and {}",
    "Now explain {}.",
    "And how about {}?",
)


@dataclass(frozen=True)
class Topic:
    """One thing people ask about."""

    names: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    keywords: tuple[str, ...]


def _topic(names: str, questions: str, answers: str, keywords: str) -> Topic:
    def split(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split("|") if part.strip())

    return Topic(split(names), split(questions), split(answers), split(keywords))


TOPICS = tuple(_topic(*row) for row in FACTS + HOWTO)
_NAMED = tuple(topic for topic in TOPICS if topic.names)


def project(dice: Dice) -> list[Exchange]:
    """One question about the project, or two to four in a row."""
    exchanges = [_question(dice, dice.pick(TOPICS))]
    if dice.chance(0.2):
        for topic in dice.sample(_NAMED, dice.number(1, 3)):
            user = dice.phrase(_MORE).format(dice.pick(topic.names))
            exchanges.append(_exchange(dice, topic, user))
    return exchanges


def _question(dice: Dice, topic: Topic) -> Exchange:
    framed = topic.names and (not topic.questions or dice.chance(0.5))
    if framed:
        user = dice.phrase(_FRAMES).format(dice.pick(topic.names))
    else:
        user = dice.phrase(topic.questions)
    return _exchange(dice, topic, user[0].upper() + user[1:])


def _exchange(dice: Dice, topic: Topic, user: str) -> Exchange:
    return Exchange("project", user, dice.pick(topic.answers), says(*topic.keywords))
