"""The packed runner: one forward for all rows of a step, keys and values in pages."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.attention import IntArray, PackedStep, Piece, running
from mesh.engine.transformers.kv_cache import KvCache
from mesh.engine.transformers.lora_batch import shares_of
from mesh.engine.transformers.runner import Runner
from mesh.engine.transformers.sequence import Batch, Row

_computed = attrgetter("computed")


class PackedRunner(Runner):
    """Runs a model whose attention is set to `attention.NAME`.

    `max_rows` and `max_pages` bound the slots and the pages of one row.
    """

    execution = "packed"
    shares_prefix = True
    chunks = True

    def __init__(self, model: PreTrainedModel, cache: KvCache, max_rows: int, max_pages: int) -> None:
        self.cache = cache
        self._model = model
        # Once: both properties walk through the parameters.
        self._device, self._dtype = model.device, model.dtype
        # On CPUs a single row goes through other kernels than several, at the same speed and with another rounding.
        # It is computed twice instead, so that an answer does not depend on whether there is somebody beside it.
        self._pairs = self._device.type == "cpu"
        self._table: IntArray = np.zeros((max_rows, max_pages), dtype=np.int64)
        self._filled = [0] * max_rows
        # Where layers are spread over devices, the last ones could not use indices that lie on the first.
        places: dict[str, object] = getattr(model, "hf_device_map", None) or {}
        spread = len(set(places.values())) > 1
        self._slices_logits = not spread and "logits_to_keep" in inspect.signature(model.forward).parameters
        self.last_step: PackedStep | None = None

    def forward(self, batch: Batch) -> torch.Tensor:
        """See Runner. One call of the model for all tokens."""
        batch.decode.sort(key=_computed, reverse=True)
        tokens, positions, step, keep = self._prepare(batch)
        arguments: dict[str, Any] = {}
        if self._slices_logits:
            # 0 keeps all, without a copy.
            arguments["logits_to_keep"] = 0 if keep is None else keep
        with running(step), self.adapted(shares_of(batch, self._device)):
            output = self._model(input_ids=tokens, position_ids=positions, use_cache=False, **arguments)
        self.last_step = step
        logits: torch.Tensor = output.logits[0]
        if keep is not None and not self._slices_logits:
            logits = logits[keep]
        return logits[: batch.kept]

    def release(self, row: Row) -> None:
        """See Runner."""
        self._table[row.slot, : self._filled[row.slot]] = 0
        self._filled[row.slot] = 0

    def wipe(self, pages: Sequence[int]) -> None:
        """See Runner."""
        self.cache.wipe(pages)

    def copy(self, pages: Mapping[int, int]) -> None:
        """See Runner."""
        self.cache.copy(pages)

    def reset(self) -> None:
        """See Runner."""
        self.cache.wipe_all()

    def _prepare(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, PackedStep, torch.Tensor | None]:
        """Token ids and positions [1, tokens], the attention's facts, and which logits to keep (None: all)."""
        size = self.cache.page_size
        self._fill_table(batch)
        decode = batch.decode
        computed = np.array([row.computed for row in decode], dtype=np.int64)
        rows = np.array([row.slot for row in decode], dtype=np.int64)
        tokens = [row.tokens[-1] for row in decode]
        positions = [computed]
        slots = [self._table[rows, computed // size] * size + computed % size]
        keep = list(range(len(decode)))
        pieces: list[Piece] = []
        for chunk in batch.prefill:
            row, start, first = chunk.row, chunk.row.computed, len(tokens)
            tokens += row.tokens[start : start + chunk.count]
            tokens += chunk.draft
            places = np.arange(start, start + chunk.count)
            positions.append(places)
            slots.append(self._table[row.slot, places // size] * size + places % size)
            pages = self._table[row.slot, : -(-(start + chunk.count) // size)]
            pieces.append(Piece(first, len(tokens), start, pages))
            keep += range(len(tokens) - chunk.kept, len(tokens))
        keep_all = len(keep) == len(tokens)
        if len(keep) < 2:
            keep = keep * 2 or [0, 0]
        if len(tokens) < 2 and self._pairs:
            tokens, positions = tokens * 2, positions * 2
        lengths = computed + 1
        tables = self._table[rows, : -(-int(lengths[0]) // size)] if decode else self._table[:0]
        to = self._to_device
        step = PackedStep(self.cache, to(np.concatenate(slots)), self._dtype, lengths, tables, pieces)
        return (
            to(np.array(tokens, dtype=np.int64))[None],
            to(np.concatenate(positions))[None],
            step,
            None if keep_all else to(np.array(keep, dtype=np.int64)),
        )

    def _to_device(self, array: IntArray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _fill_table(self, batch: Batch) -> None:
        table, filled = self._table, self._filled
        for row in batch.rows:
            have = filled[row.slot]
            if have != len(row.pages):
                table[row.slot, have : len(row.pages)] = row.pages[have:]
                filled[row.slot] = len(row.pages)
