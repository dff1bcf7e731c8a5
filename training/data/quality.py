"""`mesh data quality`: answers that nobody should learn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from mesh.config import option
from training.conversations import Conversation, Message
from training.data.markdown import without_code
from training.data.tool import Dropped, Step, Tool
from training.data.words import ngrams, words

_NOTICE: Final = re.compile(
    r"too many requests (?:in|within|from)|(?:you'?ve|you have) (?:reached|exceeded) (?:our|your|the) "
    r"(?:current |message |usage |request )*(?:limit|quota|cap)\b|rate limit (?:reached|exceeded)"
    r"|(?:a|an) (?:network |internal |unknown |unexpected )?error (?:has )?occurr?ed (?:while|during|in) "
    r"(?:generating|processing|the (?:stream|response|request))|something went wrong.{0,80}(?:try again|contact|reload)"
    r"|could ?n[o']t load (?:the )?plugin|(?:error|failed) (?:communicating|communication) with (?:the )?plugin"
    r"|this (?:content|conversation|prompt) may violate (?:our|the)|the server (?:is|was) (?:currently )?overloaded",
    re.IGNORECASE | re.DOTALL,
)
"""Messages of the service in place of an answer. An answer that tells of them is longer than `_NOTICE_CHARS`."""
_NOTICE_CHARS: Final = 400
_BOILERPLATE: Final = re.compile(
    r"\b(?:as|i am|i'm|being) (?:just |only |merely )?an? (?:ai|artificial intelligence|large|language)"
    r"(?:[ -](?:ai|language|based|model|powered|chatbot|assistant))*"
    r"(?: model| assistant| chatbot| developed by \w+| trained by \w+| created by \w+)?,? "
    r"(?:and |so |which means |therefore )?(?:i |it is |it's )(?:can ?no?'?t|cannot|do(?:es)? ?n[o']t|don't"
    r"|am (?:not|unable)|'m (?:not|unable)|am programmed|have no|lack|must|not )"
    r"|\bmy (?:knowledge|training)(?: data)? (?:cut-?off|only (?:goes|extends)|ends|was last updated)",
    re.IGNORECASE,
)
# A thousand million has nine zeros.
_DIGITS: Final = re.compile(r"([1-9])\1{8,}|0{16,}")
_NGRAM: Final = 4
_ENOUGH: Final = 40
"""Words below which nothing is said about repetition."""


@dataclass(frozen=True, kw_only=True)
class Quality(Tool):
    """Drop conversations with messages of a service, boilerplate, repetition or blocked words in the answers."""

    boilerplate: bool = option(True, "Drop answers that say what a language model is or cannot do.")
    notices: bool = option(True, "Drop messages of a service in place of an answer: limits, network errors, plug-ins.")
    repetition: float = option(
        0.5,
        f"Drop answers in which more than this share of the {_NGRAM}-grams repeat others.",
        low=0,
        high=1,
    )
    blocked_word: tuple[str, ...] = option((), "Drop conversations that say this word, whatever its case; repeatable.")
    min_answer_words: int = option(1, "Drop conversations with an answer of fewer words.", low=0)

    def step(self) -> Step:
        return self._check

    def _check(self, conversation: Conversation) -> Iterator[Conversation | Dropped]:
        if self._blocked and (found := self._blocked.search(conversation.text)):
            yield Dropped(conversation, "a blocked word", found[0])
            return
        for place, message in enumerate(conversation.everything, 1):
            if message.role == "assistant" and (message.content.strip() or not message.calls):
                for reason in self._faults(message):
                    yield Dropped(conversation, reason, f"message {place}")
                    return
        yield conversation

    @cached_property
    def _blocked(self) -> re.Pattern[str] | None:
        if not self.blocked_word:
            return None
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, self.blocked_word))})(?!\w)", re.IGNORECASE)

    def _faults(self, message: Message) -> Iterator[str]:
        answer = message.content
        if self.notices and len(answer) <= _NOTICE_CHARS and _NOTICE.search(answer):
            yield "a message of the service"
        if self.boilerplate and _BOILERPLATE.search(answer):
            yield "boilerplate of a language model"
        if _DIGITS.search(answer):
            yield "one digit again and again"
        prose = words(without_code(answer))
        if repeated(prose) > self.repetition:
            yield "repetition"
        if not message.calls and len(prose) < self.min_answer_words and len(words(answer)) < self.min_answer_words:
            yield f"an answer of fewer than {self.min_answer_words} words"


def repeated(given: list[str]) -> float:
    """The share of the 4-grams that were there before; 0 for texts too short to say."""
    if len(given) < _ENOUGH:
        return 0.0
    total = len(given) - _NGRAM + 1
    return 1 - len(set(ngrams(given, _NGRAM))) / total
