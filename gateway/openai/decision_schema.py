"""Request body of /v1/decisions: an input and questions about it, whose answers are probabilities of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.openai.chat_schema import ChatRequest, check
from gateway.openai.messages import ChatMessage
from gateway.openai.schema import StructuredOutputs, decode
from mesh.errors import invalid, out_of_range, unsupported

MAX_QUESTIONS: Final = 400
# A label is a letter, which is one token; and so many likeliest tokens have log probabilities.
MAX_LABELS: Final = 20
LABELS: Final = "ABCDEFGHIJKLMNOPQRST"
_ROLES: Final = ("user", "system", "developer", "assistant")


class TextPart(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of text: `input_text`, or `output_text` of an assistant. Others are known in order to be refused."""

    type: str
    text: str | None = None


class InputMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message of the input."""

    role: str
    content: str | list[TextPart]
    type: str = "message"


class Predicate(msgspec.Struct, forbid_unknown_fields=True, tag="predicate"):
    """How likely a statement about the input is true."""

    instructions: str | list[TextPart]
    name: str | None = None


class Option(msgspec.Struct, forbid_unknown_fields=True):
    """One of several answers."""

    value: str | bool
    description: str | None = None


class Choice(msgspec.Struct, forbid_unknown_fields=True, tag="choice"):
    """Which of several answers is right."""

    instructions: str | list[TextPart]
    choices: list[Option]
    name: str | None = None


class Level(msgspec.Struct, forbid_unknown_fields=True):
    """A level of a score."""

    label: str
    description: str | None = None


class ScoreQuestion(msgspec.Struct, forbid_unknown_fields=True, tag="score"):
    """How high the input is on a scale, whose levels count from 0 in the order in which they are given."""

    instructions: str | list[TextPart]
    levels: list[Level]
    name: str | None = None


Question = Predicate | Choice | ScoreQuestion


class DecisionRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/decisions."""

    model: str
    input: str | list[InputMessage]
    questions: list[Question]
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


_decoder = msgspec.json.Decoder(DecisionRequest)


def parse_decision(body: bytes) -> DecisionRequest:
    """Decode and check a body. Raises MeshError (invalid_request, unsupported) naming field, limit and value."""
    request = decode(_decoder, body)
    if not 1 <= len(request.questions) <= MAX_QUESTIONS:
        raise out_of_range("questions", f"{len(request.questions)} of them", 1, MAX_QUESTIONS)
    _check_input(request.input)
    for index, question in enumerate(request.questions):
        _check_question(f"questions[{index}]", question)
    return request


def labels(question: Question) -> list[str]:
    """What the labels of a question stand for, in words."""
    if isinstance(question, Predicate):
        return ["yes", "no"]
    if isinstance(question, Choice):
        return [_described(_shown(each.value), each.description) for each in question.choices]
    return [_described(each.label, each.description) for each in question.levels]


def to_chat(request: DecisionRequest, question: Question) -> ChatRequest:
    """The question as a chat that is answered by one letter. The input comes first: questions share its prefix."""
    options = "\n".join(f"{letter}: {text}" for letter, text in zip(LABELS, labels(question), strict=False))
    asked = _text(question.instructions)
    if isinstance(question, Predicate):
        asked = f"Is this true of the text above? {asked}"
    content = f"{_shown_input(request.input)}\n\n---\n{asked}\n\n{options}\n\nAnswer with one letter."
    chat = ChatRequest(
        model=request.model,
        messages=[ChatMessage(role="user", content=content)],
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=MAX_LABELS,
        structured_outputs=StructuredOutputs(choice=list(LABELS[: len(labels(question))])),
        prompt_cache_key=request.prompt_cache_key,
        safety_identifier=request.safety_identifier,
    )
    check(chat)
    return chat


def _check_input(given: str | Sequence[InputMessage]) -> None:
    if not given:
        raise invalid("input", "'input' must not be empty")
    for index, message in enumerate(given if not isinstance(given, str) else ()):
        where = f"input[{index}]"
        if message.type != "message":
            raise unsupported(f"{where}.type", f"'{where}.type' must be message, not '{message.type[:64]}'")
        if message.role not in _ROLES:
            text = f"'{where}.role' must be one of {', '.join(_ROLES)}, not '{message.role[:64]}'"
            raise invalid(f"{where}.role", text)
        _check_parts(f"{where}.content", message.content)


def _check_parts(where: str, content: str | Sequence[TextPart]) -> None:
    if not content:
        raise invalid(where, f"'{where}' must not be empty")
    for index, part in enumerate(content if not isinstance(content, str) else ()):
        if part.type not in ("input_text", "output_text"):
            param = f"{where}[{index}].type"
            raise unsupported(param, f"'{param}' must be input_text or output_text, not '{part.type[:64]}'")
        if part.text is None:
            raise invalid(f"{where}[{index}].text", f"'{where}[{index}].text' is required")


def _check_question(where: str, question: Question) -> None:
    _check_parts(f"{where}.instructions", question.instructions)
    if isinstance(question, Predicate):
        return
    name, values = (
        ("choices", [(type(each.value), each.value) for each in question.choices])
        if isinstance(question, Choice)
        else ("levels", [(str, each.label) for each in question.levels])
    )
    if not 2 <= len(values) <= MAX_LABELS:
        raise out_of_range(f"{where}.{name}", f"{len(values)} of them", 2, MAX_LABELS)
    if len(set(values)) < len(values):
        raise invalid(f"{where}.{name}", f"'{where}.{name}' must differ from each other")


def _described(name: str, description: str | None) -> str:
    return f"{name} ({description})" if description else name


def _shown(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text or "" for part in content)


def _shown_input(given: str | Sequence[InputMessage]) -> str:
    if isinstance(given, str):
        return given
    return "\n\n".join(f"{message.role}: {_text(message.content)}" for message in given)
