"""The chunks of a streamed chat answer: its text, and what is told from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.openai.answers import Usage
from gateway.openai.logprobs import ChatLogprobs
from gateway.openai.parts import ChoiceReader, PartOptions, choice_readers
from gateway.openai.sse import AnswerEvents, finish_reason, usage
from gateway.openai.token_ids import TokenIds
from gateway.reconnect import EventIds
from gateway.routing.events import Delta
from mesh.dialects import Arguments, Call, Content, Part
from mesh.v1 import inference_pb2 as pb

_encode = msgspec.json.encode


class ChatEvents(AnswerEvents):
    """Chunks of a chat answer; the first of each choice gives the role."""

    KIND = b"chat.completion.chunk"
    HEAD = b'{"index":%d,"delta":{'
    TEXT = b'"content":'
    FIRST = b'"role":"assistant","content":"","refusal":null'
    LAST = b""
    CLOSE = b"}"
    # Whether the content is a text or null is not known if the answer may be calls alone.
    FIRST_OF_TOOLS = b'"role":"assistant","content":null,"refusal":null'

    def __init__(
        self,
        answer_id: str,
        created: int,
        model: str,
        choices: int,
        *,
        include_usage: bool,
        running_usage: bool = False,
        logprobs: Sequence[ChatLogprobs] | None = None,
        token_ids: TokenIds | None = None,
        ids: EventIds | None = None,
        options: PartOptions,
        reasoning_fields: Sequence[str],
    ) -> None:
        """`reasoning_fields`: the names by which reasoning goes."""
        super().__init__(
            answer_id,
            created,
            model,
            choices,
            include_usage=include_usage,
            running_usage=running_usage,
            logprobs=logprobs,
            token_ids=token_ids,
            ids=ids,
        )
        self._options = options
        self._reasoning_fields = reasoning_fields
        self._readers: list[ChoiceReader] | None = None
        if options.tools is not None:
            self._first = self.FIRST_OF_TOOLS

    def _started(self, event: pb.Started, parts: list[bytes]) -> None:
        self._readers = choice_readers(self._options, event, self._id, self._choices)
        super()._started(event, parts)
        self._plain &= self._readers is None

    def _delta(self, event: Delta, parts: list[bytes]) -> None:
        if self._readers is None:
            super()._delta(event, parts)
            return
        if self._logprobs is not None:
            self._logprobs[event.choice].add(event.logprobs)
        if self._token_ids is not None:
            self._token_ids.add(event)
        found = self._readers[event.choice].take(event)
        self._note_usage(len(event.token_ids))
        self._tell(event.choice, found, parts)

    def _choice_finished(self, event: pb.ChoiceFinished, parts: list[bytes]) -> None:
        reason = finish_reason(event.reason)
        if self._readers is not None:
            reader = self._readers[event.choice]
            self._tell(event.choice, reader.finish(), parts)
            reason = reader.finish_reason(reason)
        parts = self._chunk(event.choice, parts)
        parts += (self._heads[event.choice], self.LAST)
        self._end_chunk(event.choice, reason, parts)

    def _tell(self, choice: int, found: Sequence[Part], parts: list[bytes]) -> None:
        for part in found:
            # Fields without the braces around them, of which the head of the chunk has one.
            fields = _encode(self._fields(choice, part))[1:-1]
            chunk = self._chunk(choice, parts, fields)
            chunk += (self._heads[choice], fields)
            self._end_chunk(choice, None, chunk)

    def _fields(self, choice: int, part: Part) -> dict[str, Any]:
        if isinstance(part, Content):
            return {"content": part.text}
        assert self._readers is not None
        reader = self._readers[choice]
        if isinstance(part, Call):
            index = reader.told
            reader.told += 1
            function = {"name": part.name, "arguments": ""}
            call = {"index": index, "id": reader.call_id(index), "type": "function", "function": function}
            return {"function_call": function} if reader.functions else {"tool_calls": [call]}
        if isinstance(part, Arguments):
            if reader.functions:
                return {"function_call": {"arguments": part.text}}
            return {"tool_calls": [{"index": reader.told - 1, "function": {"arguments": part.text}}]}
        return dict.fromkeys(self._reasoning_fields, part.text)

    def _usage(self, counts: pb.Usage) -> Usage:
        return usage(counts, sum(reader.reasoning_tokens for reader in self._readers or ()))
