"""A streamed answer on the wire: server-sent events, one per delta with text, and the JSON in them.

Everything in a chunk but its text is the same for the whole stream, so it is encoded once: a chunk costs one escaping
of its text and no dictionary. Held-back text (an incomplete character, a possible stop string) makes no chunk of its
own, so that the sequence of chunks does not depend on how tokens were spread over messages with one token each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from gateway.errors import ErrorAnswer
from gateway.openai.answers import CompletionTokensDetails, PromptTokensDetails, Usage
from gateway.openai.logprobs import LogprobBuffer
from gateway.openai.token_ids import TokenIds
from gateway.reconnect import EventIds
from gateway.routing.events import Delta, Event, Token
from mesh.v1 import inference_pb2 as pb

DONE = b"data: [DONE]\n\n"
_FINISH = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
_FINGERPRINT_LENGTH = 12

_encode = msgspec.json.encode


class AnswerEvents:
    """Renders one answer; subclasses say what a chunk looks like.

    `include_usage` and `running_usage`: as `include_usage` and `continuous_usage_stats` of `stream_options`;
    `logprobs` (one for each choice) and `token_ids`: if the client asked for them; `ids`: if it wants to be able to
    reconnect.
    """

    KIND: ClassVar[bytes]
    # A choice in a chunk: how it begins, what precedes its text, the first and the last chunk's place of the text, and
    # what comes after that. No first: there is no such chunk.
    HEAD: ClassVar[bytes]
    TEXT: ClassVar[bytes]
    FIRST: ClassVar[bytes]
    LAST: ClassVar[bytes]
    CLOSE: ClassVar[bytes]
    # Whether the token ids of its prompt are the choice's own, and not the chunk's.
    OWN_PROMPT: ClassVar[bool] = False

    def __init__(
        self,
        answer_id: str,
        created: int,
        model: str,
        choices: int,
        *,
        include_usage: bool,
        running_usage: bool = False,
        logprobs: Sequence[LogprobBuffer] | None = None,
        token_ids: TokenIds | None = None,
        ids: EventIds | None = None,
    ) -> None:
        self.ids = ids
        self._id = answer_id
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._choices = choices
        self._prefix = b""
        self._first = self.FIRST
        self._heads: list[bytes] = []
        self._text_heads: list[bytes] = []
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._text_end = self.CLOSE + b',"logprobs":null,"finish_reason":null}]' + self._tail
        self._running = pb.Usage() if running_usage else None
        # Also of tokens whose text is held back.
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._text_alone = logprobs is None and token_ids is None
        # Whether a token does nothing but to add a chunk with its text; known from the start on.
        self._plain = False

    def render(self, events: Sequence[Event]) -> bytes:
        """The bytes of these events, to be sent at once; may be empty."""
        parts: list[bytes] = []
        for event in events:
            if type(event) is Token and self._plain:
                if event.text:
                    parts += (self._text_heads[event.choice], _encode(event.text), self._text_end)
            elif isinstance(event, Delta):
                self._delta(event, parts)
            elif isinstance(event, pb.Started):
                self._started(event, parts)
            elif isinstance(event, pb.ChoiceFinished):
                self._choice_finished(event, parts)
            else:
                self._finished(event, parts)
        return b"".join(parts)

    def failed(self, failure: ErrorAnswer) -> bytes:
        """The one event of an error after the first byte; neither a finish_reason nor [DONE] follows."""
        return b"data: %b\n\n" % failure.body

    def _started(self, event: pb.Started, parts: list[bytes]) -> None:
        """The first chunk of each choice, if there is such a thing."""
        if self.ids is not None:
            self.ids.begin(event)
        self._plain = self._text_alone and self.ids is None and self._running is None
        self._prefix = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"system_fingerprint":%b,"choices":[' % (
            _encode(self._id),
            self.KIND,
            self._created,
            _encode(self._model),
            _encode(system_fingerprint(event.fingerprint)),
        )
        if self._running is not None:
            self._running.prompt_tokens, self._running.cached_tokens = event.prompt_tokens, event.cached_tokens
            self._note_usage(0)
        self._heads = [self._prefix + self.HEAD % index for index in range(self._choices)]
        self._text_heads = [head + self.TEXT for head in self._heads]
        if self._first:
            for choice, head in enumerate(self._heads):
                chunk = self._chunk(choice, parts)
                chunk += (head, self._first)
                self._end_chunk(choice, None, chunk)

    def _delta(self, event: Delta, parts: list[bytes]) -> None:
        text = event.text
        choice = event.choice
        if self._logprobs is not None:
            self._logprobs[choice].add(event.logprobs)
        if self._token_ids is not None:
            self._token_ids.add(event)
        if self._running is not None:
            self._note_usage(len(event.token_ids))
        if not text:
            return
        encoded = _encode(text)
        if self.ids is not None:
            parts = self._chunk(choice, parts, encoded)
        if self._text_alone:
            parts += (self._text_heads[choice], encoded, self._text_end)
        else:
            parts += (self._text_heads[choice], encoded)
            self._end_chunk(choice, None, parts)

    def _choice_finished(self, event: pb.ChoiceFinished, parts: list[bytes]) -> None:
        parts = self._chunk(event.choice, parts)
        parts += (self._heads[event.choice], self.LAST)
        self._end_chunk(event.choice, finish_reason(event.reason), parts)

    def _end_chunk(self, choice: int, reason: str | None, parts: list[bytes]) -> None:
        """What comes behind the text of a choice."""
        waiting = self._logprobs[choice] if self._logprobs is not None else None
        logprobs = _encode(waiting.take()) if waiting else b"null"
        parts += (self.CLOSE, b',"logprobs":', logprobs, b',"finish_reason":', _encode(reason))
        prompt = b""
        if self._token_ids is not None:
            own, prompt = self._token_ids.fields(choice)
            parts.append(own)
        parts += (prompt, b"}]") if self.OWN_PROMPT else (b"}]", prompt)
        parts.append(self._tail)

    def _finished(self, event: pb.Finished, parts: list[bytes]) -> None:
        if self._include_usage:
            chunk = self._chunk(None, parts)
            chunk += (self._prefix, b'],"usage":', _encode(self._usage(event.usage)), b"}\n\n")
        self._chunk(None, parts).append(DONE)

    def _chunk(self, choice: int | None, parts: list[bytes], text: bytes = b"") -> list[bytes]:
        """Where the next chunk of a choice, or of none, goes: behind its id, or nowhere if the client has it."""
        if self.ids is None:
            return parts
        line = self.ids.next_of_all() if choice is None else self.ids.next(choice, text)
        if line is None:
            return []
        parts.append(line)
        return parts

    def _note_usage(self, tokens: int) -> None:
        """Put the usage so far into the chunks to come."""
        if self._running is not None:
            self._running.completion_tokens += tokens
            self._tail = b',"usage":%b}\n\n' % _encode(self._usage(self._running))
            self._text_end = self.CLOSE + b',"logprobs":null,"finish_reason":null}]' + self._tail

    def _usage(self, counts: pb.Usage) -> Usage:
        return usage(counts)


class CompletionEvents(AnswerEvents):
    """Chunks of a text completion."""

    KIND = b"text_completion"
    HEAD = b'{"index":%d,'
    TEXT = b'"text":'
    FIRST = b""
    LAST = b'"text":""'
    CLOSE = b""
    OWN_PROMPT = True


def finish_reason(reason: pb.FinishReason) -> str:
    """OpenAI's word for it."""
    return _FINISH.get(reason, "stop")


def system_fingerprint(fingerprint: str) -> str:
    """The model's fingerprint in short, in OpenAI's form."""
    return "fp_" + fingerprint.rpartition(":")[2][:_FINGERPRINT_LENGTH]


def usage(counts: pb.Usage, reasoning_tokens: int | None = None) -> Usage:
    """Token counts as OpenAI has them; with those of the reasoning in the answers of chats."""
    known = reasoning_tokens is not None
    return Usage(
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        total_tokens=counts.prompt_tokens + counts.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=counts.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens) if known else msgspec.UNSET,
    )
