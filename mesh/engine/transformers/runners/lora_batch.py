"""Which tokens of a packed step belong to which adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from mesh.engine.transformers.lora.hooks import Adapter, Share
from mesh.engine.transformers.scheduling.sequence import Batch, Work


def shares_of(batch: Batch, device: torch.device) -> list[Share]:
    """Whose tokens are where in a packed step: those of the decoding rows, then those of the pieces of prompts."""
    if not batch.has_adapters:
        return []
    spans: dict[Adapter, list[range]] = {}
    first = 0
    for work, count in _in_order(batch):
        if work.adapter is not None:
            spans.setdefault(work.adapter, []).append(range(first, first + count))
        first += count
    return [Share(adapter, _tokens(ranges, device)) for adapter, ranges in spans.items()]


def _in_order(batch: Batch) -> Iterable[tuple[Work, int]]:
    yield from ((row.work, 1) for row in batch.decode)
    yield from ((chunk.row.work, chunk.count) for chunk in batch.prefill)


def _tokens(ranges: Sequence[range], device: torch.device) -> slice | torch.Tensor:
    places = [place for span in ranges for place in span]
    if len(places) == 1:
        # Twice: alone, a row goes through other kernels than among others (see PackedRunner).
        places *= 2
    elif places[-1] - places[0] == len(places) - 1:
        return slice(places[0], places[-1] + 1)
    return torch.tensor(places, device=device)
