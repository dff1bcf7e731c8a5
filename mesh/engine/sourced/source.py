"""What computes token ids for SourcedEngine."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass

from mesh.engine.base import ModelInfo, Request
from mesh.engine.output import RawLogprob
from mesh.engine.transformers.loading.text_side import TextSide
from mesh.errors import MeshError


@dataclass(frozen=True, slots=True)
class Row:
    """One choice to be continued: `ids` are the prompt and the `done` tokens that it has already, `limit` is how many
    it may have in all, and one of `ending` ends it."""

    key: int
    request: Request
    choice: int
    ids: Sequence[int]
    done: int
    limit: int
    ending: Collection[int]


@dataclass(frozen=True, slots=True)
class Piece:
    """New tokens of a row, with a log probability each if they were asked for; of what it continues, `cached_tokens`
    were not computed again."""

    token_ids: Sequence[int]
    logprobs: Sequence[RawLogprob] | None
    cached_tokens: int


class Source(ABC):
    """Continues rows, any number at a time. `name` is the engine's; `broken` is set when only a new process helps."""

    name: str

    def __init__(self) -> None:
        self.broken = asyncio.Event()

    @abstractmethod
    async def open(self) -> tuple[TextSide, ModelInfo]:
        """Be ready for rows: what texts are made of, and what is served. Raises MeshError with one clear sentence."""

    @abstractmethod
    async def close(self) -> None:
        """Free everything; no row is being continued."""

    @abstractmethod
    def check(self, request: Request) -> None:
        """Refuse by name what it cannot honour."""

    @abstractmethod
    def follow(self, row: Row) -> AsyncGenerator[Piece]:
        """The tokens of a row as they come, at most up to its end; closed when no more are wanted."""

    @abstractmethod
    def explain(self, error: Exception) -> MeshError:
        """What to say of an error that `follow` raised."""
