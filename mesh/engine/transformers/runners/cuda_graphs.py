"""Decoding steps as CUDA graphs: the device runs a whole step by itself, without waiting for each kernel's launch.

Launching a step of a large model kernel by kernel takes the host longer than the device takes to compute it while few
rows decode. A graph is recorded for some numbers of rows; a step takes the next larger one and pads. Padding rows have
one token, written to page 0, which belongs to nobody.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mesh.engine.transformers.attention.interface import IntArray
from mesh.engine.transformers.scheduling.sequence import Batch
from mesh.log import kv

log = logging.getLogger(__name__)

# Runs before a recording: libraries and kernels set themselves up in their first.
_WARM_UPS = 2


class DecodeInputs(NamedTuple):
    """What tells one decoding step from another, each [rows] int64 on the device; see PagedRows."""

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    lines: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Graph:
    """A recording: reads `inputs` [5, rows] and writes `logits` [rows, vocabulary]."""

    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor
    logits: torch.Tensor


def graph_sizes(max_rows: int) -> list[int]:
    """The numbers of rows that are recorded: dense where padding would cost a large share."""
    sizes = {size for size in (1, 2, 4) if size < max_rows}
    sizes.update(range(8, min(max_rows, 128), 8), range(128, max_rows, 32))
    return sorted(sizes | {max_rows})


class DecodeGraphs:
    """Graphs of up to `max_rows` rows. `forward` computes the logits of a step from its inputs, `padding` is the line
    of the block table that padding rows name."""

    def __init__(
        self, forward: Callable[[DecodeInputs], torch.Tensor], device: torch.device, max_rows: int, padding: int
    ) -> None:
        self.max_rows = max_rows
        self._forward = forward
        self._device = device
        self._padding = torch.tensor([[0], [0], [0], [padding], [1]], dtype=torch.int64, device=device)
        self._sizes = graph_sizes(max_rows)
        self._graphs: dict[int, _Graph] = {}

    def capture(self) -> None:
        """Record all sizes, the largest first: the smaller ones fit into its memory."""
        pool: Any = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            self._graphs[size] = self._record(size, pool)
        log.info("decoding steps recorded as CUDA graphs", extra=kv(graphs=len(self._sizes), rows=self.max_rows))

    def _record(self, size: int, pool: Any) -> _Graph:
        inputs = self._padding.repeat(1, size)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            expected = [self._forward(DecodeInputs(*inputs)) for _ in range(_WARM_UPS)][-1]
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile, such as that of a second model.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = self._forward(DecodeInputs(*inputs))
        graph.replay()
        if not torch.allclose(logits.float(), expected.float(), atol=0.1, rtol=0.1):
            raise ArithmeticError(f"a replayed step of {size} rows differs from a launched one")
        return _Graph(graph, inputs, logits)

    def take(self, batch: Batch) -> bool:
        """Whether a step can be replayed: it only decodes, and no adapter changes a layer."""
        return not batch.prefill and not batch.has_adapters and len(batch.decode) <= self.max_rows

    def replay(self, inputs: IntArray, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [rows, vocabulary] of a step with `inputs` [5, rows], valid until the next one.

        `tokens` [rows] int64 on the device stand in for those of the inputs.
        """
        rows = inputs.shape[1]
        recorded = self._graphs[self._sizes[bisect_left(self._sizes, rows)]]
        recorded.inputs[:, :rows].copy_(torch.from_numpy(inputs), non_blocking=True)
        if tokens is not None:
            recorded.inputs[0, :rows] = tokens
        if rows < recorded.inputs.shape[1]:
            recorded.inputs[:, rows:] = self._padding
        recorded.graph.replay()
        return recorded.logits[:rows]
