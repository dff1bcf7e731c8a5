"""An answer as blocks, from the same parts that OpenAI's chats are made of; the same for streams and for answers in one
piece."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, cast

from gateway.anthropic.answers import (
    BlockOut,
    MessageUsage,
    OutputTokensDetails,
    Stop,
    TextOut,
    ThinkingOut,
    ToolUseOut,
)
from gateway.anthropic.schema import MessagesRequest
from gateway.anthropic.translate import ID_PREFIX
from gateway.openai.parts import ChoiceReader, PartOptions, choice_readers
from gateway.routing.events import Delta
from mesh.dialects import Arguments, Call, Content, Part
from mesh.v1 import inference_pb2 as pb

_LONG_PREFIX = "call_"  # of ids in OpenAI's API
_SIGNATURE_BYTES = 24
_CLOSED = 4  # the longest may end in a key alone; if no other is JSON either, the text never was

Step = BlockOut | str | None
"""What happens to the blocks of an answer: one begins, its text goes on, it ends."""


class Blocks:
    """Reads an answer. Every part that it gives belongs to one block, and a block ends before the next one begins."""

    def __init__(self, answer_id: str, request: MessagesRequest, options: PartOptions) -> None:
        self._id = answer_id
        self._request = request
        self._options = options
        self._omitted = request.thinking is not None and request.thinking.display == "omitted"
        self._reader: ChoiceReader | None = None
        self._open: BlockOut | None = None
        self._thoughts = blake2b(digest_size=_SIGNATURE_BYTES)
        self._end: pb.ChoiceFinished | None = None

    def begin(self, started: pb.Started) -> None:
        """The answer begins."""
        readers = choice_readers(self._options, started, self._id, 1)
        self._reader = readers[0] if readers is not None else None

    def take(self, delta: Delta) -> Iterator[Step]:
        """What these tokens do."""
        if self._reader is not None:
            yield from self._steps(self._reader.take(delta))
        elif delta.text:
            yield from self._steps([Content(delta.text)])

    def finish(self, end: pb.ChoiceFinished) -> Iterator[Step]:
        """What the end does."""
        self._end = end
        if self._reader is not None:
            yield from self._steps(self._reader.finish())
        yield from self._close()

    def _steps(self, parts: Sequence[Part]) -> Iterator[Step]:
        for part in parts:
            if isinstance(part, Call):
                yield from self._begin(ToolUseOut(self._call_id(), part.name))
            elif isinstance(part, Arguments):
                yield part.text
            elif isinstance(part, Content):
                if not isinstance(self._open, TextOut):
                    yield from self._begin(TextOut())
                yield part.text
            else:
                if not isinstance(self._open, ThinkingOut):
                    yield from self._begin(ThinkingOut())
                self._thoughts.update(part.text.encode())
                if not self._omitted:
                    yield part.text

    def _begin(self, block: BlockOut) -> Iterator[Step]:
        yield from self._close()
        self._open = block
        yield block

    def _close(self) -> Iterator[Step]:
        if self._open is not None:
            yield None
            self._open = None

    @property
    def signature(self) -> str:
        """Of the reasoning so far: the same for the same text."""
        return b64encode(self._thoughts.digest()).decode()

    def _call_id(self) -> str:
        assert self._reader is not None, "what told the call"
        index = self._reader.told
        self._reader.told += 1
        return ID_PREFIX + self._reader.call_id(index).removeprefix(_LONG_PREFIX)

    # Once it has ended

    @property
    def stop(self) -> Stop:
        """Why the answer ended."""
        end = self._end
        assert end is not None
        if end.reason == pb.FINISH_REASON_LENGTH:
            short = end.HasField("tokens") and end.tokens < self._request.max_tokens
            return Stop("model_context_window_exceeded" if short else "max_tokens", None)
        if end.stop_string in (self._request.stop_sequences or ()):
            return Stop("stop_sequence", end.stop_string)
        return Stop("tool_use" if self._reader is not None and self._reader.calls else "end_turn", None)

    def usage(self, counts: pb.Usage) -> MessageUsage:
        """Token counts of the whole answer."""
        thinking = self._reader.reasoning_tokens if self._reader is not None else 0
        found = usage(counts.prompt_tokens, counts.cached_tokens, counts.completion_tokens)
        found.output_tokens_details = OutputTokensDetails(thinking)
        return found


def usage(prompt: int, cached: int, completion: int) -> MessageUsage:
    """Token counts as Anthropic has them."""
    return MessageUsage(input_tokens=prompt - cached, cache_read_input_tokens=cached, output_tokens=completion)


def arguments_of(text: str) -> dict[str, Any]:
    """The input of a call by its JSON text; of one that was cut off, what came whole."""
    for candidate in chain([text], _closed(text)):
        try:
            found = _sound(json.loads(candidate))
        except ValueError:
            continue
        except RecursionError:
            return {}
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {}


def _sound(value: object) -> object:
    """The same with question marks for halves of surrogate pairs, which no answer can carry."""
    written = json.dumps(value, ensure_ascii=False)
    return value if written.isascii() else json.loads(written.encode(errors="replace"))


def _closed(text: str) -> Iterator[str]:
    """A JSON text that was cut off, closed behind each of its last values, the longest first."""
    ends: deque[int] = deque(maxlen=_CLOSED)
    for place, character in _outside_strings(text):
        if character in "{[}]":
            ends.append(place + 1)
        elif character == ",":
            ends.append(place)
    for end in reversed(ends):
        yield text[:end] + _closing(text[:end])


def _closing(text: str) -> str:
    """What closes all that is open at the end of a text."""
    open_: list[str] = []
    for _, character in _outside_strings(text):
        if character in "{[":
            open_.append("}" if character == "{" else "]")
        elif character in "}]" and open_:
            open_.pop()
    return "".join(reversed(open_))


def _outside_strings(text: str) -> Iterator[tuple[int, str]]:
    quoted = escaped = False
    for place, character in enumerate(text):
        if quoted:
            quoted, escaped = escaped or character != '"', not escaped and character == "\\"
        elif character == '"':
            quoted = True
        else:
            yield place, character
