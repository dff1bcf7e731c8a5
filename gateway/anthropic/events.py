"""The events of a streamed answer of the Messages API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from gateway.anthropic.answers import (
    BlockDelta,
    BlockOut,
    BlockStart,
    BlockStop,
    InputDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    StreamEvent,
    TextDelta,
    TextOut,
    ThinkingDelta,
    ThinkingOut,
    ToolUseOut,
)
from gateway.anthropic.blocks import Blocks, Step, usage
from gateway.errors import ErrorAnswer
from gateway.reconnect import EventIds
from gateway.routing.events import Delta, Event
from mesh.v1 import inference_pb2 as pb

_encode = msgspec.json.encode

_DELTAS = {TextOut: TextDelta, ThinkingOut: ThinkingDelta, ToolUseOut: InputDelta}
_CLOSE = b"}}\n\n"  # of a delta, behind its text
_NO_TEXT = b'""' + _CLOSE


class MessageEvents:
    """Renders one answer; see gateway.openai.respond.Chunks. What stands around the text of a delta is encoded once for
    each block."""

    def __init__(self, answer_id: str, model: str, blocks: Blocks, ids: EventIds | None) -> None:
        self.ids = ids
        self._id = answer_id
        self._model = model
        self._blocks = blocks
        self._index = -1
        self._block: BlockOut | None = None
        self._head = b""

    def render(self, events: Sequence[Event]) -> bytes:
        """The bytes of these events, to be sent at once; may be empty."""
        parts: list[bytes] = []
        for event in events:
            if isinstance(event, Delta):
                self._take(self._blocks.take(event), parts)
            elif isinstance(event, pb.Started):
                self._started(event, parts)
            elif isinstance(event, pb.ChoiceFinished):
                self._take(self._blocks.finish(event), parts)
            else:
                self._finished(event, parts)
        return b"".join(parts)

    def failed(self, failure: ErrorAnswer) -> bytes:
        """The one event of an error after the first byte."""
        return b"event: error\ndata: %b\n\n" % failure.body

    def _started(self, event: pb.Started, parts: list[bytes]) -> None:
        if self.ids is not None:
            self.ids.begin(event)
        self._blocks.begin(event)
        message = Message(
            id=self._id,
            model=self._model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=usage(event.prompt_tokens, event.cached_tokens, 0),
        )
        self._add(parts, MessageStart(message))
        self._add(parts, Ping())

    def _take(self, steps: Iterable[Step], parts: list[bytes]) -> None:
        for step in steps:
            if isinstance(step, str):
                self._add_text(parts, step)
            elif step is None:
                self._end_block(parts)
            else:
                self._begin_block(step, parts)

    def _begin_block(self, block: BlockOut, parts: list[bytes]) -> None:
        self._index += 1
        self._block = block
        self._head = _event(BlockDelta(self._index, _DELTAS[type(block)](""))).removesuffix(_NO_TEXT)
        self._add(parts, BlockStart(self._index, block))

    def _add_text(self, parts: list[bytes], text: str) -> None:
        encoded = _encode(text)
        self._place(parts, encoded).extend((self._head, encoded, _CLOSE))

    def _end_block(self, parts: list[bytes]) -> None:
        if isinstance(self._block, ThinkingOut):
            self._add(parts, BlockDelta(self._index, SignatureDelta(self._blocks.signature)))
        self._add(parts, BlockStop(self._index))

    def _finished(self, event: pb.Finished, parts: list[bytes]) -> None:
        for last in (MessageDelta(self._blocks.stop, self._blocks.usage(event.usage)), MessageStop()):
            self._place(parts, None).append(_event(last))

    def _add(self, parts: list[bytes], event: StreamEvent) -> None:
        self._place(parts).append(_event(event))

    def _place(self, parts: list[bytes], text: bytes | None = b"") -> list[bytes]:
        """Where the next event goes: behind its id, or nowhere if the client has it.

        `text`: what it adds to the answer; None for an event after all blocks.
        """
        if self.ids is None:
            return parts
        line = self.ids.next_of_all() if text is None else self.ids.next(0, text)
        if line is None:
            return []
        parts.append(line)
        return parts


def _event(event: StreamEvent) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event.__struct_config__.tag).encode(), _encode(event))
