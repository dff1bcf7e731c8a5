"""The pictures of a batch's rows, as a packed step takes them: where their features belong, and what it changes about
positions and attention."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from mesh.engine.transformers.attention.interface import IntArray
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row
from mesh.engine.transformers.vision.tower import Features, Tower


def shown_in(batch: Batch, tower: Tower | None) -> AbstractContextManager[None]:
    """Context in which the model sees the pictures whose tokens the batch computes."""
    if tower is None:
        return nullcontext()
    shown: list[tuple[IntArray, Features]] = []
    first = len(batch.decode)
    for chunk in batch.prefill:
        shown += _part(tower, chunk, first)
        first += chunk.count
    return tower.showing(shown)


def _part(tower: Tower, chunk: Chunk, first: int) -> list[tuple[IntArray, Features]]:
    """Where in the step, whose tokens from `first` on are the chunk's, its pictures' features belong; none if it has no
    picture's token."""
    work, start = chunk.row.work, chunk.row.computed
    if work.pictures is None:
        return []
    places = work.pictures.places
    low, high = np.searchsorted(places, (start, start + chunk.count)).tolist()
    if low == high:
        return []
    features = work.features or tower.look(work.prompt, work.pictures)
    # Rows that need them later, after a preemption say, look again.
    work.features = features if high < len(places) else None
    return [(places[low:high] - start + first, features.slice(low, high))]


def shifts(rows: Sequence[Row]) -> IntArray:
    """What is added to the index of each row's newest token to get its position."""
    return np.array([row.work.pictures.shift if row.work.pictures else 0 for row in rows], dtype=np.int64)


def runs_of(row: Row, start: int, end: int) -> IntArray | None:
    """For each token of a row before `end`, the run of a picture whose tokens see each other; None if no token from
    `start` on belongs to one."""
    pictures = row.work.pictures
    if pictures is None or not pictures.mutual or not (pictures.runs[start:end] >= 0).any():
        return None
    runs = pictures.runs[:end]
    return np.pad(runs, (0, end - len(runs)), constant_values=-1)


def joined(placed: Sequence[IntArray]) -> IntArray:
    """The positions of a step: [tokens], or [3, tokens] if those of one part differ by dimension."""
    if all(part.ndim == 1 for part in placed):
        return np.concatenate(placed)
    return np.concatenate([np.broadcast_to(part, (3, part.shape[-1])) for part in placed], axis=1)
