"""Which tokens of a conversation a model is trained on: the answers, each with the end of its turn, and nothing else.

A conversation is rendered by the chat template that serving will use. Where the template marks the answers
(`{% generation %}`), its marks are taken; else an answer begins where the prompt for it ends, and ends where the text
up to its message does. Both are places in the text. They become places among the tokens only where the tokenizer,
given the text up to there alone, writes the very tokens that the whole has: then what a served model reads before it
answers is what it was trained after. A conversation for which this does not hold is refused, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, cast

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    render_jinja_template,  # pyright: ignore[reportUnknownVariableType]
)

from training.conversations import REASONING, Message

IGNORED: Final = -100
"""The label of a token that is not trained on, as torch's cross entropy takes it."""
_GENERATION: Final = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

ChatMessage = dict[str, Any]
"""A message as templates read it: `role`, `content`, and perhaps more."""


def chat_message(message: Message) -> ChatMessage:
    """As templates read it when a worker serves: the arguments of calls are objects, which OpenAI's format writes as
    JSON texts, and reasoning has the names of all families. Raises ValueError for arguments that are no JSON."""
    plain: dict[str, Any] = {**message.extra, "role": message.role, "content": message.content}
    if message.reasoning:
        plain |= dict.fromkeys(REASONING, message.reasoning)
    calls: list[dict[str, Any]] = plain.get("tool_calls") or []
    for call in calls:
        function: dict[str, Any] = call.get("function", call)
        if isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = json.loads(function["arguments"] or "{}")
            except RecursionError:
                raise ValueError("arguments that are nested too deeply") from None
    return plain


class Refusal(StrEnum):
    """Why a conversation cannot be trained on exactly; the values are for people, and are counted."""

    NO_ANSWER = "it holds no answer"
    EMPTY_ANSWER = "an answer is empty"
    TEMPLATE = "the chat template refuses it"
    REWRITTEN = "the chat template writes earlier messages differently once more follow"
    ALTERED = "the chat template leaves out or changes the text of an answer"
    END_INSIDE = "an answer holds the token that ends the text"
    START_INSIDE = "an answer's first token reaches back into the prompt"
    STOP_INSIDE = "an answer's last token reaches on into what follows"
    TOO_LONG = "no token of an answer is within the maximum length"


class Unmaskable(ValueError):
    """A conversation that is refused: the reason by kind, and in detail."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(f"{refusal}: {detail}" if detail else str(refusal))
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the rendered text: an answer and the end of its turn, in characters, the end exclusive; the answer
    itself ends at `spoken`."""

    start: int
    end: int
    spoken: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids, and their labels: the id itself where it is trained on, else `IGNORED`. Both of one length, but for
    an encoder-decoder model, whose labels are the decoder's."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool = False

    @property
    def supervised(self) -> int:
        """How many tokens are trained on."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Masker:
    """Makes samples of conversations, for one tokenizer and chat template.

    `template` is jinja text; `max_length` limits a sample in tokens, of which the first are kept. With `last_only` a
    sample is trained on its last answer alone. `tools` are what the template presents, as OpenAI's API has them.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    max_length: int | None = None
    last_only: bool = False
    tools: Sequence[dict[str, Any]] = ()
    _marked: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_marked", _GENERATION.search(self.template) is not None)

    def sample(self, messages: Sequence[ChatMessage]) -> Sample:
        """A conversation for a decoder-only model: one text with the labels of its answers. Raises Unmaskable."""
        _check(messages, self._eos)
        text, spans = self.spans(messages)
        ids = self._encode(text)
        labels = [IGNORED] * len(ids)
        for span in spans:
            start, end = self._tokens(text, ids, span)
            labels[start:end] = ids[start:end]
            if self.max_length is not None and start >= self.max_length:
                break  # looking up each of ten thousand answers takes hours, and those that follow are cut off
            if self._lacks_end(text, span):
                ids.append(self._eos[0])
                labels.append(self._eos[0])
        return self._shortened(ids, labels)

    def pairs(self, messages: Sequence[ChatMessage]) -> list[Sample]:
        """A conversation for an encoder-decoder model: of each answer the prompt for the encoder, and its tokens with
        the end of the text for the decoder. Raises Unmaskable."""
        _check(messages, self._eos)
        samples: list[Sample] = []
        for place in self._places(messages):
            prompt = self._encode(self.render(messages[:place], prompt=True))
            answer = [*self._encode(messages[place]["content"]), self._eos[0]]
            if self.max_length is not None and len(prompt) > self.max_length:
                raise Unmaskable(Refusal.TOO_LONG, f"the prompt of an answer has {len(prompt)} tokens")
            cut = answer[: self.max_length]
            samples.append(Sample(prompt, cut, truncated=len(cut) < len(answer)))
        return samples

    def spans(self, messages: Sequence[ChatMessage]) -> tuple[str, Iterator[Span]]:
        """The rendered conversation, and where in it the answers to train on are, each looked up when it is asked for.
        Raises Unmaskable, then too."""
        places = self._places(messages)
        answers = [messages[place]["content"] for place in places]
        if self._marked:
            text, marks = self._marked_spans(messages)
            if len(marks) != len(answers):
                raise Unmaskable(Refusal.ALTERED, f"{len(answers)} answers, of which it writes {len(marks)}")
            spans = iter(marks)
        else:
            text = self.render(messages, prompt=False)
            spans = self._found_spans(text, messages, places)
        return text, (_spoken(text, span, answer) for span, answer in zip(spans, answers, strict=True))

    def render(self, messages: Sequence[ChatMessage], *, prompt: bool) -> str:
        """The text of some messages, with the beginning of an answer if it is a prompt. Raises Unmaskable."""
        return self._rendered(messages, prompt=prompt, marks=False)[0]

    def _places(self, messages: Sequence[ChatMessage]) -> list[int]:
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        return places[-1:] if self.last_only else places

    def _found_spans(self, text: str, messages: Sequence[ChatMessage], places: list[int]) -> Iterator[Span]:
        for place in places:
            before = self.render(messages[:place], prompt=True)
            after = self.render(messages[: place + 1], prompt=False)
            if not (text.startswith(after) and after.startswith(before)):
                raise Unmaskable(Refusal.REWRITTEN, f"message {place + 1}")
            yield Span(len(before), len(after))

    def _marked_spans(self, messages: Sequence[ChatMessage]) -> tuple[str, list[Span]]:
        text, marks = self._rendered(messages, prompt=False, marks=True)
        spans = [Span(start, end) for start, end in marks]
        return text, spans[-1:] if self.last_only else spans

    def _rendered(
        self, messages: Sequence[ChatMessage], *, prompt: bool, marks: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        if self.tools and not re.search(r"\btools\b", self.template):
            raise Unmaskable(Refusal.TEMPLATE, "it presents no tools")
        # As the tokenizer's apply_chat_template does it, which does not tell where the marks are in the text.
        variables: dict[str, Any] = {**self.tokenizer.special_tokens_map, "add_generation_prompt": prompt}
        try:
            texts, places = cast(
                "tuple[list[str], list[list[tuple[int, int]]]]",
                render_jinja_template(
                    conversations=[list(messages)],
                    chat_template=self.template,
                    tools=list(self.tools) or None,
                    return_assistant_tokens_mask=marks,
                    **variables,
                ),
            )
        except Exception as error:  # the template's own refusal, or whatever a value that it does not expect raises
            raise Unmaskable(Refusal.TEMPLATE, " ".join(str(error).split())[:200]) from error
        return texts[0], places[0] if marks else []

    def _tokens(self, text: str, ids: list[int], span: Span) -> tuple[int, int]:
        """The tokens of a span, the end exclusive. Raises Unmaskable."""
        start = self._place(text[: span.start], ids)
        if start is None:
            raise Unmaskable(Refusal.START_INSIDE, repr(text[max(0, span.start - 10) : span.start + 10]))
        # White space by which a template ends a turn may be one token with what follows; no answer needs it.
        end = self._place(text[: span.end], ids)
        if end is None:
            end = self._place(text[: span.end].rstrip(), ids)
        if end is None or end <= start:
            raise Unmaskable(Refusal.STOP_INSIDE, repr(text[max(0, span.end - 10) : span.end + 10]))
        return start, end

    def _place(self, beginning: str, ids: list[int]) -> int | None:
        """How many tokens the beginning of the text has; None where the whole is not cut there."""
        own = self._encode(beginning)
        return len(own) if ids[: len(own)] == own else None

    def _lacks_end(self, text: str, last: Span) -> bool:
        """Whether the template ends a turn by text alone: then the end of the text is the last thing to be taught."""
        if text[last.end :].strip():
            return False
        added = self.tokenizer.added_tokens_decoder.values()
        special = {self._eos[1], *(token.content for token in added if token.special)}
        return not any(token in text[last.spoken :] for token in special)

    def _shortened(self, ids: list[int], labels: list[int]) -> Sample:
        cut = labels[: self.max_length]
        if not any(label != IGNORED for label in cut):
            raise Unmaskable(Refusal.TOO_LONG, f"it has {len(ids)} tokens")
        return Sample(ids[: self.max_length], cut, truncated=len(cut) < len(ids))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    @property
    def _eos(self) -> tuple[int, str]:
        return cast("int", self.tokenizer.eos_token_id), cast("str", self.tokenizer.eos_token)


def _spoken(text: str, span: Span, answer: str) -> Span:
    place = text.rfind(answer.strip(), span.start, span.end)
    if place < 0:
        raise Unmaskable(Refusal.ALTERED, repr(answer[:40]))
    return replace(span, spoken=place + len(answer.strip()))


def _check(messages: Sequence[ChatMessage], eos: tuple[int, str]) -> None:
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise Unmaskable(Refusal.NO_ANSWER)
    if not all(answer["content"].strip() or answer.get("tool_calls") for answer in answers):
        raise Unmaskable(Refusal.EMPTY_ANSWER)
    if any(eos[1] in answer["content"] for answer in answers):
        raise Unmaskable(Refusal.END_INSIDE, eos[1])
