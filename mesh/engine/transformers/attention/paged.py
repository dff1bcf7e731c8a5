"""The packed step over kernels that read keys and values in their pages, on GPUs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from mesh.engine.transformers.attention.interface import PackedStep, Piece, Variant
from mesh.engine.transformers.attention.kv_cache import KvCache, LayerCache


@dataclass(frozen=True, slots=True)
class PagedRows:
    """The rows of a step: those that decode, whose tokens come first, then the pieces of prompts.

    `table` [lines, pages] int32 names the pages of each row by its line; `lines` and `lengths` [decoding] int64 are the
    lines of the decoding rows and their tokens with the new one. All on the device, so that a CUDA graph may read
    others there when it is replayed. No row has more than `most_keys` tokens.
    """

    table: torch.Tensor
    lines: torch.Tensor
    lengths: torch.Tensor
    pieces: Sequence[Piece]
    most_keys: int

    @property
    def decoding(self) -> int:
        """Rows with a single token."""
        return self.lines.shape[0]


class Attend(ABC):
    """Attention over the rows of one step; made once, called for each layer."""

    def store(self, cached: LayerCache, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
        """Put new keys and values at `slots`; False leaves that to torch."""
        del cached, slots, k, v
        return False

    @abstractmethod
    def __call__(self, cached: LayerCache, q: torch.Tensor, variant: Variant, out: torch.Tensor) -> None:
        """q [tokens, heads, key size] over the pages of `cached`, to `out` [tokens, heads, value size]."""


class PagedKernels(ABC):
    """One way to attend over pages. `page_size` is the size of a page that suits it best."""

    name: str
    page_size: int = 16

    @abstractmethod
    def plan(self, rows: PagedRows) -> Attend:
        """What the layers of a step have in common."""


class PagedStep(PackedStep):
    """A step whose attention reads the pages where they lie."""

    def __init__(self, cache: KvCache, slots: torch.Tensor, rows: PagedRows, kernels: PagedKernels) -> None:
        super().__init__(cache, slots)
        self._attend = kernels.plan(rows)

    def store(self, cached: LayerCache, k: torch.Tensor, v: torch.Tensor) -> None:
        """See PackedStep."""
        if not self._attend.store(cached, self.slots, k, v):
            super().store(cached, k, v)

    def attend(
        self, cached: LayerCache, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, variant: Variant, out: torch.Tensor
    ) -> None:
        """See PackedStep. The new keys and values are read from the cache, too."""
        self._attend(cached, q, variant, out)


def split(whole: torch.Tensor, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
    """Parts of these sizes, one after the other."""
    return cast("Sequence[torch.Tensor]", cast("Any", whole).split(list(sizes)))
