"""What runs a step's forward: the packed runner or the per-sequence one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from mesh.engine.transformers.sequence import Batch, Row


class Runner(ABC):
    """Computes the logits of a step. Belongs to the engine's thread.

    `execution` names the way in ModelInfo. `shares_prefix` says whether rows may share pages, `chunks` whether a prompt
    may be computed in pieces. `page_bytes` is the memory of one page.
    """

    execution: str
    shares_prefix: bool
    chunks: bool

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [batch.kept, vocabulary], after which the batch's tokens are in the cache.

        May reorder `batch.decode`.
        """

    @abstractmethod
    def release(self, row: Row) -> None:
        """The row is about to lose its slot and pages."""

    @abstractmethod
    def wipe(self, pages: Sequence[int]) -> None:
        """Set the content of pages to zero."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything, after a step that broke."""
