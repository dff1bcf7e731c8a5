"""After a step that broke: whose fault it was, and what is left of the others' work."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.scheduling.scheduler import Scheduler
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row
from mesh.errors import ErrorKind, MeshError

log = logging.getLogger(__name__)


class ForwardError(Exception):
    """The model broke, before anything of the step was counted."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def is_out_of_memory(error: Exception) -> bool:
    """Whether less at once might have worked."""
    # torch has a type for it on accelerators, and a sentence on CPUs.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def failure_of(error: Exception, what: str) -> MeshError:
    """The error that clients see: their own mistake as it is, anything else without its details."""
    if isinstance(error, MeshError):
        return error
    log.error("%s", what, exc_info=error)
    return MeshError(ErrorKind.ENGINE_FAILED, "the engine failed in a step of this request")


def give_credit_back(batch: Batch) -> None:
    """Of a step that has sampled nothing."""
    for row in batch.sampled:
        row.work.give_credit_back()
    for chunk in batch.prefill:
        chunk.row.work.give_credit_back(len(chunk.draft))


def try_alone(rows: Sequence[Row], scheduler: Scheduler, runner: Runner) -> tuple[dict[int, Exception], bool]:
    """Compute each of these rows by itself, while no other holds a page.

    Returns the errors of the requests that break, by key, and whether any row did not.
    """
    failures: dict[int, Exception] = {}
    worked = False
    for row in rows:
        if row.work.key in failures:
            continue
        try:
            _compute_alone(row, scheduler, runner)
            worked = True
        except Exception as error:
            failures[row.work.key] = error
    return failures, worked


def _compute_alone(row: Row, scheduler: Scheduler, runner: Runner) -> None:
    blocks, limits = scheduler.blocks, scheduler.limits
    pages = blocks.allocate(blocks.pages_for(len(row.tokens)))
    assert pages is not None, "a row's tokens fit into the whole pool"
    trial = Row(row.work, row.choice, row.tokens, row.most, row.least, row.stop_ids, slot=0, pages=pages)
    runner.wipe(blocks.take_stale())
    try:
        while trial.remaining:
            count = min(trial.remaining, limits.step_tokens) if limits.chunked_prefill else trial.remaining
            runner.forward(Batch(prefill=[Chunk(trial, count, kept=1)]))
            trial.computed += count
    finally:
        runner.release(trial)
        blocks.distrust(pages, forget=False)
        blocks.release(pages)
