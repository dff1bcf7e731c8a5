"""Conversations packed into rows of equal length, so that no step computes much padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

IGNORED = -100
"""The label of a token that is not learnt (the default of torch's cross entropy)."""

_OPEN_ROWS = 64


@dataclass
class Row:
    """Whole conversations behind one another. `positions` start again at 0 with each of them, which is how
    transformers knows that they must not see each other."""

    ids: list[int] = field(default_factory=list[int])
    labels: list[int] = field(default_factory=list[int])
    positions: list[int] = field(default_factory=list[int])

    def add(self, ids: list[int], learnt: list[bool]) -> None:
        self.ids += ids
        self.labels += [token if wanted else IGNORED for token, wanted in zip(ids, learnt, strict=True)]
        self.positions += range(len(ids))


@dataclass(frozen=True)
class Rows:
    """`ids`, `labels` and `positions`, each int64 `[rows, length]`."""

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)


def pack(encoded: Iterable[tuple[list[int], list[bool]]], length: int, pad: int) -> Rows:
    """First fit into up to 64 open rows; the fullest one is closed when there is no room. A conversation
    longer than a row is cut at its end."""
    done: list[Row] = []
    opened: list[Row] = []
    for ids, learnt in encoded:
        ids, learnt = ids[:length], learnt[:length]
        row = next((row for row in opened if len(row.ids) + len(ids) <= length), None)
        if row is None:
            if len(opened) == _OPEN_ROWS:
                fullest = max(opened, key=lambda row: len(row.ids))
                opened.remove(fullest)
                done.append(fullest)
            row = Row()
            opened.append(row)
        row.add(ids, learnt)
    done += opened
    for row in done:
        missing = length - len(row.ids)
        row.add([pad] * missing, [False] * missing)
    return Rows(
        torch.tensor([row.ids for row in done]),
        torch.tensor([row.labels for row in done]),
        torch.tensor([row.positions for row in done]),
    )
