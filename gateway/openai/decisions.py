"""POST /v1/decisions: answers to questions about an input, as probabilities of labels.

Each question is a chat of its own that is held to one letter. The probability of a label is that of its letter, as the
model says it, as a share of all letters that were possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from quart import Blueprint, Response

from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.decision_schema import (
    LABELS,
    MAX_LABELS,
    MAX_QUESTIONS,
    Choice,
    DecisionRequest,
    Predicate,
    Question,
    labels,
    parse_decision,
    to_chat,
)
from gateway.openai.respond import begin, read_reconnect
from gateway.openai.translate import to_generate
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.events import Delta, Event
from mesh.v1 import inference_pb2 as pb

# Models that can think should not: they are asked for one letter.
_NO_THINKING = {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}


class PredicateAnswer(msgspec.Struct, tag="predicate"):
    """How likely a statement is true."""

    name: str | None
    probability: float


class ChoiceProbability(msgspec.Struct):
    """How likely an answer is right."""

    value: str | bool
    probability: float


class ChoiceAnswer(msgspec.Struct, tag="choice"):
    """The likeliest answer, with its probability as `confidence`."""

    name: str | None
    choice: str | bool
    confidence: float
    probabilities: list[ChoiceProbability]


class LevelProbability(msgspec.Struct):
    """How likely a level is, which counts from 0."""

    label: str
    value: int
    probability: float


class ScoreAnswer(msgspec.Struct, tag="score"):
    """The mean level, with the probability of the likeliest as `confidence`."""

    name: str | None
    score: float
    confidence: float
    probabilities: list[LevelProbability]


Answer = PredicateAnswer | ChoiceAnswer | ScoreAnswer


class InputDetails(msgspec.Struct):
    """Of the input's tokens, those that came from the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """Of the output's tokens, those of reasoning: none."""

    reasoning_tokens: int = 0


class DecisionUsage(msgspec.Struct):
    """Token counts over all questions, each of which reads the input."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Decision(msgspec.Struct):
    """The answers, in the order of the questions."""

    answers: list[Answer]
    model: str
    usage: DecisionUsage


DECISIONS = Operation(
    method="POST",
    path="/v1/decisions",
    summary="Answer questions about an input by probabilities.",
    group="Decisions",
    body=DecisionRequest,
    answer=Decision,
    errors=OF_WORKERS,
    values={"questions": f"1 to {MAX_QUESTIONS}, each with at most {MAX_LABELS} choices or levels"},
)


def decision_routes(dispatch: Dispatch) -> Blueprint:
    """The route."""
    routes = Blueprint("decisions", __name__)

    @DECISIONS.on(routes)
    async def decisions() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        body = await read_json()
        asked = parse_decision(body)
        chats = [to_chat(asked, question) for question in asked.questions]
        wires = [to_generate(chat, f"{exchange.request_id}-{place}") for place, chat in enumerate(chats)]
        for wire in wires:
            wire.chat.template_hints.update(_NO_THINKING)
        reconnect = read_reconnect(exchange, body, stream=False)
        generation, events = await begin(exchange, dispatch, chats[0], wires, reconnect)
        found = _Letters(len(wires))
        found.add(events)
        while not generation.done:
            found.add(await generation.next())
        exchange.token()
        answers = [_answer(question, found.of(place)) for place, question in enumerate(asked.questions)]
        decision = Decision(answers, asked.model, _usage(found.usage))
        return Response(msgspec.json.encode(decision), content_type="application/json")

    return routes


class _Letters:
    """What each question's first token was, with those that it could have been."""

    def __init__(self, questions: int) -> None:
        self.usage = pb.Usage()
        self._first: list[pb.TokenLogprob | None] = [None] * questions

    def add(self, events: Sequence[Event]) -> None:
        """Take events in order."""
        for event in events:
            if isinstance(event, Delta) and event.logprobs and self._first[event.choice] is None:
                self._first[event.choice] = event.logprobs[0]
            elif isinstance(event, pb.Finished):
                self.usage = event.usage

    def of(self, question: int) -> pb.TokenLogprob:
        """Of one question."""
        return self._first[question] or pb.TokenLogprob()


def probabilities(first: pb.TokenLogprob, count: int) -> list[float]:
    """Of the first `count` letters, together 1. A letter that is none of the likeliest tokens has 0."""
    weights = dict.fromkeys(LABELS[:count], 0.0)
    spellings = {each.token: each.logprob for each in (*first.top, first)}
    for token, logprob in spellings.items():
        letter = token.decode(errors="replace").strip()
        if letter in weights:
            weights[letter] += math.exp(logprob)
    total = sum(weights.values())
    if not total:  # so unlikely that nothing is left of it; the grammar chose it all the same
        chosen = first.token.decode(errors="replace").strip()
        return [float(letter == chosen) for letter in weights]
    return [weight / total for weight in weights.values()]


def _answer(question: Question, first: pb.TokenLogprob) -> Answer:
    found = probabilities(first, len(labels(question)))
    if isinstance(question, Predicate):
        return PredicateAnswer(question.name, found[0])
    best = max(range(len(found)), key=found.__getitem__)
    if isinstance(question, Choice):
        values = [each.value for each in question.choices]
        each = [ChoiceProbability(value, probability) for value, probability in zip(values, found, strict=True)]
        return ChoiceAnswer(question.name, values[best], found[best], each)
    levels = [
        LevelProbability(level.label, value, probability)
        for value, (level, probability) in enumerate(zip(question.levels, found, strict=True))
    ]
    return ScoreAnswer(question.name, sum(each.value * each.probability for each in levels), found[best], levels)


def _usage(counts: pb.Usage) -> DecisionUsage:
    return DecisionUsage(
        counts.prompt_tokens,
        InputDetails(counts.cached_tokens),
        counts.completion_tokens,
        OutputDetails(),
        counts.prompt_tokens + counts.completion_tokens,
    )
