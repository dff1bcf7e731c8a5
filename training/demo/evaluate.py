"""The examination: requests kept apart from training, answered greedily and sampled, and marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.demo.conversation import Check, Conversation
from training.demo.corpus import WRITERS, examination

TEMPERATURE = 0.7
"""The sampled half of the examination uses this temperature, as chat clients do."""

_BATCH = 32
_LONGEST = 400


@dataclass(frozen=True)
class Question:
    """The conversation up to a user message, and the check of what should come next."""

    kind: str
    messages: list[dict[str, str]]
    check: Check


@dataclass(frozen=True)
class Answer:
    """What the model said; `ended` tells whether it ended its turn by itself."""

    question: Question
    text: str
    ended: bool
    tokens: int

    @property
    def right(self) -> bool:
        return self.ended and self.question.check(self.text)


@dataclass(frozen=True)
class Score:
    """The marks of one kind of question; shares are from 0 to 1."""

    kind: str
    asked: int
    greedy: float
    sampled: float
    ended: float
    english: float


def questions(seed: str, conversations_per_writer: int) -> list[Question]:
    """Questions of every kind; in a conversation of several turns each turn is one, after the right answers."""
    asked: list[Question] = []
    for name, (writer, _) in WRITERS.items():
        for conversation in examination(f"{seed}/{name}", writer, conversations_per_writer):
            asked += _turns(conversation)
    return asked


def ask(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Question], temperature: float
) -> list[Answer]:
    """Answers in the order of the questions; greedy at temperature 0."""
    texts = [_rendered(tokenizer, question) for question in asked]
    order = sorted(range(len(asked)), key=lambda place: len(texts[place]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        rows = _generate(model, tokenizer, [texts[place] for place in places], temperature)
        for place, row in zip(places, rows, strict=True):
            answers[place] = _answer(tokenizer, asked[place], row)
    return [answers[place] for place in range(len(asked))]


def score(greedy: Sequence[Answer], sampled: Sequence[Answer], vocabulary: set[str]) -> list[Score]:
    """One score for each kind of question, in alphabetical order, and one for all of them."""
    kinds = sorted({answer.question.kind for answer in greedy})
    marks = [
        _score(
            kind,
            [answer for answer in greedy if answer.question.kind == kind],
            [answer for answer in sampled if answer.question.kind == kind],
            vocabulary,
        )
        for kind in kinds
    ]
    return [*marks, _score("all", greedy, sampled, vocabulary)]


def table(scores: Iterable[Score]) -> str:
    """The scores as a Markdown table."""
    lines = [
        f"| kind of question | asked | right, greedy | right, at {TEMPERATURE} | ends its turn | known words |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in scores:
        shares = " | ".join(f"{100 * share:.0f} %" for share in (row.greedy, row.sampled, row.ended, row.english))
        lines.append(f"| {row.kind} | {row.asked} | {shares} |")
    return "\n".join(lines)


def words_of(texts: Iterable[str]) -> set[str]:
    """All words of these texts in lower case: what counts as readable English here."""
    return {word for text in texts for word in _words(text)}


def _turns(conversation: Conversation) -> Iterator[Question]:
    messages = conversation.messages()
    first = 1 if conversation.system is not None else 0
    for turn, exchange in enumerate(conversation.exchanges):
        yield Question(exchange.kind, messages[: first + 2 * turn + 1], exchange.check)


def _rendered(tokenizer: PreTrainedTokenizerFast, question: Question) -> str:
    return str(tokenizer.apply_chat_template(question.messages, tokenize=False, add_generation_prompt=True))


@torch.inference_mode()
def _generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], temperature: float
) -> list[list[int]]:
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    generator: Any = model  # the declared type of `generate` does not know this class
    out: torch.Tensor = generator.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=_LONGEST,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    return [[int(token) for token in row] for row in out[:, inputs["input_ids"].shape[1] :]]


def _answer(tokenizer: PreTrainedTokenizerFast, question: Question, row: list[int]) -> Answer:
    end = tokenizer.eos_token_id
    ended = end in row
    said = row[: row.index(end)] if ended else row
    return Answer(question, str(tokenizer.decode(said)), ended, len(said))


def _score(kind: str, greedy: Sequence[Answer], sampled: Sequence[Answer], vocabulary: set[str]) -> Score:
    both = [*greedy, *sampled]
    return Score(
        kind,
        len(greedy),
        _share([answer.right for answer in greedy]),
        _share([answer.right for answer in sampled]),
        _share([answer.ended for answer in both]),
        _share([known for answer in both for known in _known(answer, vocabulary)]),
    )


def _known(answer: Answer, vocabulary: set[str]) -> list[bool]:
    """For each word of the answer: do the training texts have it, or the conversation itself?"""
    said = words_of(message["content"] for message in answer.question.messages)
    return [word in vocabulary or word in said for word in _words(answer.text)]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 1.0
