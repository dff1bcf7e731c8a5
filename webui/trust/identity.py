"""Answers that give away who gave them: a vote after that is no blind one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from webui.records import Flag, ModelCard

# Names that models call themselves by, whatever the registry's name of the one at hand.
_FAMILIES: Final = """
alibaba anthropic baichuan bard bing chatglm chatgpt claude cohere copilot deepmind deepseek doubao ernie falcon gemini
gemma gpt grok internlm kimi koala llama meta-ai microsoft minimax mistral mixtral moonshot nemotron openai palm phi
qwen tongyi vicuna wizardlm xai yi zhipu 通义 文心 豆包 智谱
""".split()
# Parts of models' names that are words like any other.
_COMMON: Final = frozenset(
    """
    assistant base beta chat code coder demo fast flash instruct it large latest lite max medium mesh mini model nano
    pro preview small the tiny turbo vision
    """.split()
)
_SAYS: Final = (
    r"(?:\bi(?:\s+a|['’])m|\bmy name is|\bcall me|\bthis is|\bas|(?:made|trained|created|developed|built|designed) by|"
    r"我是|我叫|ich bin|je suis|soy)\s*(?:an?\s+|the\s+)?(?:(?!(?:to|with|about|for|of|not|in|on)\b)\w+[\s,]+){0,5}?"
)


class IdentityWatch:
    """Knows the names of the models that are served. `learn` again when others come."""

    def __init__(self, cards: Iterable[ModelCard] = ()) -> None:
        self.learn(cards)

    def learn(self, cards: Iterable[ModelCard]) -> None:
        """The models that there are now, and the organisations behind them."""
        words = set(_FAMILIES)
        for card in cards:
            words |= _words(card.name)
            if len(card.organization) > 2:
                words.add(card.organization.casefold())
        named = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        self._says = re.compile(rf"{_SAYS}(?:{named})", re.IGNORECASE)

    def flags(self, models: Sequence[str], answers: Sequence[str]) -> list[Flag]:
        """A flag for each answer in which a model tells who it is, by a sentence about itself or by its full name."""
        found: list[Flag] = []
        for side, model, answer in zip(("a", "b"), models, answers, strict=False):
            said = self._says.search(answer) or _full_name(model).search(answer)
            if said:
                found.append(Flag("identity", "a" if side == "a" else "b", said.group(0)[:200]))
        return found


def _words(name: str) -> set[str]:
    """What a model of this name may call itself: the name, without its owner, and the family at its beginning."""
    base = name.rsplit("/", 1)[-1].casefold()
    family = re.match(r"[^\W\d_]+", base)
    words = {name.casefold(), base}
    if family and len(family[0]) > 3:
        words.add(family[0])
    return words - _COMMON


def _full_name(name: str) -> re.Pattern[str]:
    base = name.rsplit("/", 1)[-1]
    if base.casefold() in _COMMON or len(base) < 3:
        base = name
    # Spaces instead of dashes are how people, and so models, write it.
    spelled = r"[\s_-]?".join(re.escape(part) for part in re.split(r"[\s_-]+", base) if part)
    return re.compile(rf"(?<!\w){spelled}(?!\w)", re.IGNORECASE)
