"""Inputs of many clients on their way to the model: batches of similar length, one at a time, between two steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mesh.engine.transformers.embedding.embedder import Embedder
from mesh.errors import ErrorKind, MeshError

# Rows of a batch are at least so long as this share of its longest: more padding would cost more than it saves.
_LEAST_SHARE = 0.7
_SPARE_TOKENS = 8


@dataclass(slots=True, eq=False)
class _Job:
    """The inputs of one client."""

    vectors: list[torch.Tensor | None]
    left: int
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Input:
    job: _Job
    place: int
    ids: Sequence[int]


class EmbedQueue:
    """Belongs to the event loop. `call` runs something on the engine's thread between two steps.

    Only one batch is under way at any time, so that steps and batches take turns.
    """

    def __init__(self, call: Callable[[Callable[[], None]], None], most_waiting: int) -> None:
        self._call = call
        self._most_waiting = most_waiting
        self._waiting: list[_Input] = []  # oldest first
        self._running: list[_Input] = []
        self._error: MeshError | None = None
        self.batches = self.inputs = self.tokens = 0

    @property
    def running(self) -> int:
        """Inputs of the batch that is under way."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Inputs that are not."""
        return len(self._waiting)

    def stats(self) -> dict[str, float]:
        """Counters since start."""
        return {"embed_batches": self.batches, "embed_inputs": self.inputs, "embed_tokens": self.tokens}

    async def embed(self, embedder: Embedder, inputs: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """A vector for each input. Raises overloaded at once, or the first error of an input."""
        if self._waiting and len(self._waiting) + len(inputs) > self._most_waiting:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"{len(self._waiting)} inputs wait to be embedded, and at most {self._most_waiting} may",
                retry_after=1.0,
            )
        job = _Job([None] * len(inputs), len(inputs), asyncio.get_running_loop().create_future())
        self._waiting += [_Input(job, place, ids) for place, ids in enumerate(inputs)]
        self._next_batch(embedder)
        try:
            await job.done
        finally:
            self._waiting = [each for each in self._waiting if each.job is not job]
        return [vector for vector in job.vectors if vector is not None]

    def fail_all(self, error: MeshError) -> None:
        """End everything that waits or runs: the engine's thread does not come to it any more."""
        for each in (*self._waiting, *self._running):
            _end(each.job, error)
        self._waiting, self._running = [], []

    def _next_batch(self, embedder: Embedder) -> None:
        if self._running or not self._waiting:
            return
        batch = self._running = choose(embedder, self._waiting)
        chosen = set(map(id, batch))
        self._waiting = [each for each in self._waiting if id(each) not in chosen]
        loop = asyncio.get_running_loop()

        def run() -> None:
            found = embedder.vectors([each.ids for each in batch])
            loop.call_soon_threadsafe(self._take, embedder, batch, found)

        self._call(run)

    def _take(self, embedder: Embedder, batch: Sequence[_Input], found: Sequence[torch.Tensor | MeshError]) -> None:
        if self._running is not batch:
            return  # all was ended meanwhile
        self._running = []
        self.batches += 1
        self.inputs += len(batch)
        self.tokens += sum(len(each.ids) for each in batch)
        for each, result in zip(batch, found, strict=True):
            if isinstance(result, MeshError):
                _end(each.job, result)
                continue
            each.job.vectors[each.place] = result
            each.job.left -= 1
            if not each.job.left:
                _end(each.job, None)
        self._next_batch(embedder)


def _end(job: _Job, error: MeshError | None) -> None:
    if job.done.done():
        return
    if error is None:
        job.done.set_result(None)
    else:
        job.done.set_exception(error)


def choose(embedder: Embedder, waiting: Sequence[_Input]) -> list[_Input]:
    """The next batch: the oldest input, and others of about its length as long as there is room."""
    oldest = waiting[0]
    if not embedder.together:
        return [oldest]
    length = len(oldest.ids)
    longest = shortest = length
    batch = [oldest]
    for each in sorted(waiting[1:], key=lambda each: abs(len(each.ids) - length)):
        longest, shortest = max(longest, len(each.ids)), min(shortest, len(each.ids))
        rows = len(batch) + 1
        if rows > embedder.most_rows or rows * longest > embedder.most_batch_tokens:
            break
        if shortest < longest * _LEAST_SHARE - _SPARE_TOKENS:
            break
        batch.append(each)
    return batch
