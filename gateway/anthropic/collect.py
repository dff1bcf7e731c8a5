"""An answer of the Messages API in one piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.anthropic.answers import BlockOut, Message, TextOut, ThinkingOut
from gateway.anthropic.blocks import Blocks, Step, arguments_of
from gateway.routing.events import Delta, Event
from mesh.v1 import inference_pb2 as pb


class MessageCollector:
    """Gathers one answer; see gateway.openai.respond.Collector."""

    def __init__(self, answer_id: str, model: str, blocks: Blocks) -> None:
        self._id = answer_id
        self._model = model
        self._blocks = blocks
        self._content: list[BlockOut] = []
        self._texts: list[str] = []
        self._counts: pb.Usage | None = None

    def add(self, events: Sequence[Event]) -> None:
        """Take events in order."""
        for event in events:
            if isinstance(event, Delta):
                self._take(self._blocks.take(event))
            elif isinstance(event, pb.Started):
                self._blocks.begin(event)
            elif isinstance(event, pb.ChoiceFinished):
                self._take(self._blocks.finish(event))
            else:
                self._counts = event.usage

    def _take(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, str):
                self._texts.append(step)
            elif step is None:
                self._fill(self._content[-1], "".join(self._texts))
                self._texts.clear()
            else:
                self._content.append(step)

    def _fill(self, block: BlockOut, text: str) -> None:
        if isinstance(block, TextOut):
            block.text = text
        elif isinstance(block, ThinkingOut):
            block.thinking, block.signature = text, self._blocks.signature
        else:
            block.input = arguments_of(text)

    def answer(self) -> Message:
        """The whole answer; Finished must have been added."""
        assert self._counts is not None
        stop = self._blocks.stop
        return Message(
            id=self._id,
            model=self._model,
            content=self._content,
            stop_reason=stop.stop_reason,
            stop_sequence=stop.stop_sequence,
            usage=self._blocks.usage(self._counts),
        )
