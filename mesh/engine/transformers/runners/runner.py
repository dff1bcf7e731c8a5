"""What runs a step's forward: the packed runner or the per-sequence one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from mesh.engine.transformers.lora.hooks import LoraHooks, Share
from mesh.engine.transformers.scheduling.sequence import Batch, Row


class Runner(ABC):
    """Computes the logits of a step. Belongs to the engine's thread.

    `execution` names the way in ModelInfo. `shares_prefix` says whether rows may share pages, `chunks` whether a prompt
    may be computed in pieces. `lora` is set where rows may have adapters.
    """

    execution: str
    shares_prefix: bool
    chunks: bool
    lora: LoraHooks | None = None

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [batch.kept, vocabulary], after which the batch's tokens are in the cache.

        May reorder `batch.decode`.
        """

    def looks_ahead(self, batch: Batch) -> bool:
        """Whether `launch` may follow this step."""
        del batch
        return False

    def launch(self, rows: Sequence[tuple[int, Row]], token_ids: torch.Tensor) -> None:
        """Begin the next step of decoding rows, each with its place in the sampled `token_ids`, before the tokens are
        in the rows and counted as computed. Their pages must hold one token more. `forward` takes up the result.
        """
        raise NotImplementedError

    @abstractmethod
    def release(self, row: Row) -> None:
        """The row is about to lose its slot and pages."""

    @abstractmethod
    def wipe(self, pages: Sequence[int]) -> None:
        """Set the content of pages to zero."""

    @abstractmethod
    def copy(self, pages: Mapping[int, int]) -> None:
        """Fill pages, the keys, with the content of others, the values."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything, after a step that broke."""

    def adapted(self, shares: Sequence[Share]) -> AbstractContextManager[None]:
        """Context of a forward that adapters change for their share of its tokens."""
        return self.lora.applied(shares) if self.lora is not None else nullcontext()
