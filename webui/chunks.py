"""The chunks of a streamed answer, out of the bytes of its response.

The SDK makes objects of each chunk, with all of the API's fields: 100 µs for each word (openai 3.54), which was most of
what 60 battles at once cost. Of the fields, the pages need these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

_EVENT: Final = b"data: "
_DONE: Final = b"[DONE]"


class Usage(msgspec.Struct):
    """Tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Delta(msgspec.Struct):
    """More of an answer."""

    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    """What is new of the answer."""

    delta: Delta
    finish_reason: str | None = None


class Failure(msgspec.Struct):
    """Why there is no more."""

    message: str = ""
    code: str | int | None = None


class Chunk(msgspec.Struct):
    """One event. `error`: it is the last."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Failure | None = None


_decode: Final = msgspec.json.Decoder(Chunk).decode


class Chunks:
    """The reader of one response."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that are complete by now. Raises msgspec.DecodeError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(_EVENT) and not line.startswith(_DONE, len(_EVENT)):
                yield _decode(line[len(_EVENT) :])
