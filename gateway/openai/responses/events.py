"""The events of a response, and the response that they add up to: the same for streams, for answers in one piece and
for those in the background.

Ids of items follow from the id of the response, so that an answer that is computed again has the same events.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import ErrorAnswer
from gateway.openai.answers import TokenLogprob
from gateway.openai.logprobs import ChatLogprobs
from gateway.openai.parts import ChoiceReader, PartOptions, choice_readers
from gateway.openai.responses.answer import ResponseBody, ResponseEvent, response_error, response_usage
from gateway.openai.responses.items import sealed
from gateway.openai.responses.tools import Toolbox
from gateway.openai.sse import finish_reason
from gateway.reconnect import EventIds
from gateway.routing.events import Delta, Event, Token
from mesh.dialects import Arguments, Call, Content, Part, Reasoning
from mesh.v1 import inference_pb2 as pb

_encode = msgspec.json.encode
_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_ID_BYTES: Final = 24
_TEXT_HEAD: Final = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",%b,"content_index":0,"delta":'
)


class _Open:
    """The item that is being told."""

    def __init__(self, kind: str, index: int, item: dict[str, Any]) -> None:
        self.kind = kind
        self.index = index
        self.item = item
        self.pieces: list[str] = []
        self.logprobs: list[TokenLogprob] = []

    @property
    def place(self) -> dict[str, Any]:
        """Where its events belong."""
        return {"item_id": self.item["id"], "output_index": self.index}

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces)


class ResponseEvents:
    """Renders one response. `response` is it, as far as it has come.

    `summarized`: reasoning is told as a summary; `encrypted`: and repeated for clients that send it back.
    """

    def __init__(
        self,
        response: ResponseBody,
        toolbox: Toolbox,
        *,
        options: PartOptions,
        logprobs: bool = False,
        summarized: bool = False,
        encrypted: bool = False,
        ids: EventIds | None = None,
    ) -> None:
        self.response = response
        self.ids = ids
        self.options = options
        self.sequence = 0  # number of the next event
        self._toolbox = toolbox
        self._logprobs = ChatLogprobs() if logprobs else None
        self._summarized = summarized
        self._encrypted = encrypted
        self._reader: ChoiceReader | None = None
        self._open: _Open | None = None
        self._text_head = self._text_tail = b""
        self._reason = ""
        self._parts: list[bytes] = []
        self._begun = False

    def begin(self) -> bytes:
        """The events before a worker has begun: those of a response that waits."""
        self._begun = True
        self._tell_state("response.created")
        if self.response.status == "queued":
            self._tell_state("response.queued")
        return self._take_parts()

    def render(self, events: Sequence[Event]) -> bytes:
        """The bytes of these events; may be empty."""
        for event in events:
            if type(event) is Token or type(event) is pb.Delta:
                self._delta(event)
            elif isinstance(event, pb.Started):
                self._started(event)
            elif isinstance(event, pb.ChoiceFinished):
                self._choice_finished(event)
            elif isinstance(event, pb.Finished):
                self._finished(event)
        return self._take_parts()

    def failed(self, failure: ErrorAnswer) -> bytes:
        """The last event of a response that failed."""
        self._parts.clear()
        self.ids = None  # nothing follows, and what is left out is not asked for again
        if not self._begun:
            self._tell_state("response.created")
        self.response.status = "failed"
        self.response.error = response_error(failure)
        self._tell_state("response.failed", last=True)
        return self._take_parts()

    def add(self, events: Sequence[Event]) -> None:
        """The same for a response in one piece."""
        self.render(events)

    def answer(self) -> ResponseBody:
        """The whole response."""
        return self.response

    # What the worker says

    def _started(self, event: pb.Started) -> None:
        if self.ids is not None:
            self.ids.begin(event)
        readers = choice_readers(self.options, event, self.response.id, 1)
        self._reader = readers[0] if readers is not None else None
        if not self._begun:
            self._begun = True
            self._tell_state("response.created")
        self.response.status = "in_progress"
        self._tell_state("response.in_progress")

    def _delta(self, event: Delta) -> None:
        if self._logprobs is not None:
            self._logprobs.add(event.logprobs)
        if self._reader is None:
            if event.text:
                self._text(event.text)
            return
        found = self._reader.take(event)
        self._tell(found)
        if self._logprobs is not None and found and not isinstance(found[-1], Content):
            self._logprobs.take()  # of tokens that are not in the text

    def _choice_finished(self, event: pb.ChoiceFinished) -> None:
        if self._reader is not None:
            self._tell(self._reader.finish())
        self._reason = finish_reason(event.reason)
        self._close("incomplete" if self._reason == "length" else "completed")

    def _finished(self, event: pb.Finished) -> None:
        response, whole = self.response, self._reason != "length"
        response.status = "completed" if whole else "incomplete"
        if whole:
            response.completed_at = int(time.time())
        else:
            response.incomplete_details = {"reason": "max_output_tokens"}
        response.usage = response_usage(event.usage, self._reader.reasoning_tokens if self._reader is not None else 0)
        self._tell_state(f"response.{response.status}", last=True)

    # Items

    def _tell(self, found: Sequence[Part]) -> None:
        for part in found:
            if isinstance(part, Content):
                self._text(part.text)
            elif isinstance(part, Reasoning):
                self._thought(part.text)
            elif isinstance(part, Call):
                self._call(part.name)
            else:
                self._arguments(part)

    def _text(self, text: str) -> None:
        """The hot path."""
        item = self._open
        if item is None or item.kind != "message":
            item = self._open_message()
        item.pieces.append(text)
        encoded = _encode(text)
        logprobs = b"[]"
        if self._logprobs is not None:
            entries = self._logprobs.take().content
            item.logprobs += entries
            logprobs = _encode([_short(entry) for entry in entries])
        data = b"%b%b%b%b%b%d}\n\n" % (
            *(self._text_head, encoded, b',"logprobs":', logprobs),
            *(self._text_tail, self.sequence),
        )
        self._put(data, encoded)

    def _open_message(self) -> _Open:
        item = self._begin_item("message", {"role": "assistant", "content": []}, status=True)
        self._event("response.content_part.added", **item.place, content_index=0, part=_text_part("", []))
        place = _encode(item.place)[1:-1]
        self._text_head = _TEXT_HEAD % place
        self._text_tail = b',"sequence_number":'
        return item

    def _thought(self, text: str) -> None:
        item = self._open
        if item is None or item.kind != "reasoning":
            item = self._begin_item("reasoning", {"summary": []})
            if self._summarized:
                self._summary(item, "part.added", part={"type": "summary_text", "text": ""})
            else:
                part = {"type": "reasoning_text", "text": ""}
                self._event("response.content_part.added", **item.place, content_index=0, part=part)
        item.pieces.append(text)
        if self._summarized:
            self._summary(item, "text.delta", delta=text)
        else:
            self._event("response.reasoning_text.delta", **item.place, content_index=0, delta=text)

    def _call(self, name: str) -> None:
        assert self._reader is not None
        call_id = self._reader.call_id(self._reader.told)
        self._reader.told += 1
        self._begin_item(
            "function_call", {"call_id": call_id, **self._toolbox.split(name), "arguments": ""}, status=True
        )

    def _arguments(self, part: Arguments) -> None:
        item = self._open
        assert item is not None
        item.pieces.append(part.text)
        self._event("response.function_call_arguments.delta", **item.place, delta=part.text)

    def _begin_item(self, kind: str, fields: Mapping[str, Any], *, status: bool = False) -> _Open:
        self._close("completed")
        index = len(self.response.output)
        digest = hashlib.blake2b(f"{self.response.id}:{index}".encode(), digest_size=_ID_BYTES).hexdigest()
        item: dict[str, Any] = {"id": f"{_PREFIXES[kind]}_{digest}", "type": kind}
        if status:
            item["status"] = "in_progress"
        item |= fields
        self._open = _Open(kind, index, item)
        self._event("response.output_item.added", output_index=index, item=item)
        return self._open

    def _close(self, status: str) -> None:
        """The item that is open ends."""
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "message":
            self._close_message(item)
        elif item.kind == "reasoning":
            self._close_reasoning(item)
        else:
            item.item["arguments"] = item.text
            done: dict[str, Any] = {**item.place, "name": item.item["name"], "arguments": item.text}
            self._event("response.function_call_arguments.done", **done)
        if "status" in item.item:
            item.item["status"] = status
        self.response.output = [*self.response.output, item.item]
        self._event("response.output_item.done", output_index=item.index, item=item.item)

    def _close_message(self, item: _Open) -> None:
        if self._logprobs is not None:
            item.logprobs += self._logprobs.take().content
        short = [_short(entry) for entry in item.logprobs]
        self._event("response.output_text.done", **item.place, content_index=0, text=item.text, logprobs=short)
        part = _text_part(item.text, item.logprobs)
        self._event("response.content_part.done", **item.place, content_index=0, part=part)
        item.item["content"] = [part]

    def _close_reasoning(self, item: _Open) -> None:
        text = item.text
        if self._summarized:
            part = {"type": "summary_text", "text": text}
            self._summary(item, "text.done", text=text)
            self._summary(item, "part.done", part=part)
            item.item["summary"] = [part]
        else:
            part = {"type": "reasoning_text", "text": text}
            self._event("response.reasoning_text.done", **item.place, content_index=0, text=text)
            self._event("response.content_part.done", **item.place, content_index=0, part=part)
            item.item["content"] = [part]
        if self._encrypted:
            item.item["encrypted_content"] = sealed(text)

    # Events

    def _summary(self, item: _Open, kind: str, **fields: Any) -> None:
        self._event(f"response.reasoning_summary_{kind}", **item.place, summary_index=0, **fields)

    def _tell_state(self, kind: str, *, last: bool = False) -> None:
        self._event(kind, last=last, response=self.response)

    def _event(self, kind: str, *, last: bool = False, **fields: Any) -> None:
        data = _encode(ResponseEvent(type=kind, sequence_number=self.sequence, **fields))
        self._put(b"event: %b\ndata: %b\n\n" % (kind.encode(), data), last=last)

    def _put(self, data: bytes, text: bytes = b"", *, last: bool = False) -> None:
        """An event goes out, behind its id and unless the client has it."""
        self.sequence += 1
        if self.ids is not None:
            line = self.ids.next_of_all() if last else self.ids.next(0, text)
            if line is None:
                return
            data = line + data
        self._parts.append(data)

    def _take_parts(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _text_part(text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": msgspec.to_builtins(logprobs)}


def _short(entry: TokenLogprob) -> dict[str, Any]:
    """A token's log probability as events have it, without the bytes of the token."""
    top = [{"token": each.token, "logprob": each.logprob} for each in entry.top_logprobs]
    return {"token": entry.token, "logprob": entry.logprob, "top_logprobs": top}
