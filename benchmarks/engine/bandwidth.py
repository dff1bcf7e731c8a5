"""How fast memory can be read, which bounds a decode step of one stream: it reads every weight once."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

# Far beyond any cache.
_BYTES = 2**30
_ROWS = 8192
_REPEAT = 5


def read_bandwidth() -> float:
    """Bytes a second, with torch's threads as they are: the best of a sum and of a matrix-vector product."""
    data = torch.ones(_ROWS, _BYTES // 4 // _ROWS)
    vector = torch.ones(data.shape[1])
    return _BYTES / min(_best(data.sum), _best(lambda: torch.mv(data, vector)))


def _best(work: Callable[[], object]) -> float:
    seconds: list[float] = []
    for _ in range(_REPEAT):
        begin = perf_counter()
        work()
        seconds.append(perf_counter() - begin)
    return min(seconds)
