"""The runner of rank 0: what it is told, it tells the others first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mesh.engine.transformers.parallel.protocol import Copy, Teller, Wipe
from mesh.engine.transformers.parallel.ranks import RankError, Ranks
from mesh.engine.transformers.runners.packed import PackedRunner
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.scheduling.sequence import Batch, Row


class LeadingRunner(Runner):
    """Runs each step together with the other ranks.

    Steps do not begin ahead of the sampled tokens: only rank 0 samples, and the others learn of them with the step.
    """

    execution = PackedRunner.execution
    shares_prefix = PackedRunner.shares_prefix
    chunks = PackedRunner.chunks

    def __init__(self, runner: PackedRunner, ranks: Ranks) -> None:
        self._runner = runner
        self._ranks = ranks
        self._teller = Teller()

    def forward(self, batch: Batch) -> torch.Tensor:
        """See Runner. Raises RankError whatever goes wrong: the others may have done the step, or wait within it."""
        self._ranks.send(self._teller.forward(batch))
        try:
            return self._runner.forward(batch)
        except Exception as error:
            raise RankError(f"a step of {len(batch.rows)} rows and {batch.tokens} tokens broke") from error

    def release(self, row: Row) -> None:
        """See Runner."""
        self._ranks.send(self._teller.release(row))
        self._runner.release(row)

    def wipe(self, pages: Sequence[int]) -> None:
        """See Runner."""
        self._ranks.send(Wipe(list(pages)))
        self._runner.wipe(pages)

    def copy(self, pages: Mapping[int, int]) -> None:
        """See Runner."""
        self._ranks.send(Copy(list(pages.items())))
        self._runner.copy(pages)

    def reset(self) -> None:
        """See Runner."""
        self._ranks.send(self._teller.reset())
        self._runner.reset()
