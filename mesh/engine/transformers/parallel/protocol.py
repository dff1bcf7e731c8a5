"""What rank 0 tells the others: which model to load, then every change to the rows and the cache, then each step.

The others keep the rows that are on the device, as rank 0 has them, and run the same runner over them. Only what is
new of a row is sent: in a decoding step a few bytes for each.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from mesh.engine.base import Sampling
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row, Work


class Begin(msgspec.Struct, tag=True, frozen=True):
    """The first message: what to load; `device` is the receiver's own."""

    options: EngineOptions
    device: str


class RowNews(msgspec.Struct, array_like=True, frozen=True):
    """A row in `slot`: tokens and pages beyond those that the receiver knows, and how many tokens are computed."""

    slot: int
    computed: int
    tokens: list[int]
    pages: list[int]


class ChunkNews(msgspec.Struct, array_like=True, frozen=True):
    """See Chunk."""

    row: RowNews
    count: int
    kept: int
    draft: list[int]


class Forward(msgspec.Struct, tag=True, frozen=True):
    """Run a step; see Batch."""

    decode: list[RowNews]
    prefill: list[ChunkNews]


class Release(msgspec.Struct, tag=True, frozen=True):
    """The row in this slot is gone."""

    slot: int


class Wipe(msgspec.Struct, tag=True, frozen=True):
    """Set pages to zero."""

    pages: list[int]


class Copy(msgspec.Struct, tag=True, frozen=True):
    """Fill pages, the first of each pair, with the content of the second."""

    pages: list[tuple[int, int]]


class Reset(msgspec.Struct, tag=True, frozen=True):
    """Forget all rows, and what the cache holds."""


class Stop(msgspec.Struct, tag=True, frozen=True):
    """The last message."""


Message = Begin | Forward | Release | Wipe | Copy | Reset | Stop

_decoder = msgspec.msgpack.Decoder(cast("Any", Message))


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes) -> Message:
    """The message in these bytes."""
    return _decoder.decode(data)


class Teller:
    """Rank 0's side: knows what the others know of the rows, by slot: how many of their tokens and pages."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def forward(self, batch: Batch) -> Forward:
        """The message for a step."""
        return Forward(
            [self._news(row) for row in batch.decode],
            [ChunkNews(self._news(chunk.row), chunk.count, chunk.kept, chunk.draft) for chunk in batch.prefill],
        )

    def _news(self, row: Row) -> RowNews:
        tokens, pages = self._known.get(row.slot, (0, 0))
        self._known[row.slot] = len(row.tokens), len(row.pages)
        return RowNews(row.slot, row.computed, row.tokens[tokens:], row.pages[pages:])

    def release(self, row: Row) -> Release:
        """The message for a row that is about to lose its slot."""
        self._known.pop(row.slot, None)
        return Release(row.slot)

    def reset(self) -> Reset:
        """The message for when everything is forgotten."""
        self._known.clear()
        return Reset()


class Mirror:
    """The others' side: the same rows, and a runner that is told what rank 0's is."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._rows: dict[int, Row] = {}
        self._work = Work(key=0, order=0, sampling=Sampling(seed=0), prompt=[])

    def obey(self, message: Message) -> None:
        """Do what a message says."""
        match message:
            case Forward():
                chunks = [Chunk(self._row(news.row), news.count, news.kept, news.draft) for news in message.prefill]
                self._runner.forward(Batch([self._row(news) for news in message.decode], chunks))
            case Release():
                if row := self._rows.pop(message.slot, None):
                    self._runner.release(row)
            case Wipe():
                self._runner.wipe(message.pages)
            case Copy():
                self._runner.copy(dict(message.pages))
            case Reset():
                self._rows.clear()
                self._runner.reset()
            case Begin() | Stop():
                raise ValueError(f"{type(message).__name__} in the middle")

    def _row(self, news: RowNews) -> Row:
        row = self._rows.get(news.slot)
        if row is None:
            row = self._rows[news.slot] = Row(self._work, 0, [], 0, 0, frozenset(), slot=news.slot)
        row.tokens += news.tokens
        row.pages += news.pages
        row.computed = news.computed
        return row
