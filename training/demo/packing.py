"""Conversations packed into rows of equal length, so that no step computes much padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

_OPEN_ROWS = 64


@dataclass
class Row:
    """Whole conversations behind one another. `positions` start again at 0 with each of them, which is how
    transformers knows that they must not see each other."""

    ids: list[int] = field(default_factory=list[int])
    weights: list[float] = field(default_factory=list[float])
    positions: list[int] = field(default_factory=list[int])

    def add(self, ids: list[int], weights: list[float]) -> None:
        self.ids += ids
        self.weights += weights
        self.positions += range(len(ids))


@dataclass(frozen=True)
class Rows:
    """Each `[rows, length]`: `ids` and `positions` int16 (a vocabulary and a row are below 32,768); `weights` float32,
    of learning to say the id, 0 for no."""

    ids: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Rows:
        return Rows(self.ids.to(device), self.weights.to(device), self.positions.to(device))


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows of the parts, in their order."""
    return Rows(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.weights for part in parts]),
        torch.cat([part.positions for part in parts]),
    )


def pack(encoded: Iterable[tuple[list[int], list[float]]], length: int, pad: int) -> Rows:
    """First fit into up to 64 open rows; the fullest one is closed when there is no room. A conversation
    longer than a row is cut at its end."""
    done: list[Row] = []
    opened: list[Row] = []
    for ids, weights in encoded:
        ids, weights = ids[:length], weights[:length]
        row = next((row for row in opened if len(row.ids) + len(ids) <= length), None)
        if row is None:
            if len(opened) == _OPEN_ROWS:
                fullest = max(opened, key=lambda row: len(row.ids))
                opened.remove(fullest)
                done.append(fullest)
            row = Row()
            opened.append(row)
        row.add(ids, weights)
    done += opened
    for row in done:
        missing = length - len(row.ids)
        row.add([pad] * missing, [0.0] * missing)
    return Rows(
        torch.tensor([row.ids for row in done], dtype=torch.int16),
        torch.tensor([row.weights for row in done]),
        torch.tensor([row.positions for row in done], dtype=torch.int16),
    )
