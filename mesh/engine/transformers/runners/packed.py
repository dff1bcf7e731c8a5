"""The packed runner: one forward for all rows of a step, keys and values in pages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.attention.cpp_attention import CppKernels
from mesh.engine.transformers.attention.interface import IntArray, PackedStep, Piece, running
from mesh.engine.transformers.attention.kernels import Kernels
from mesh.engine.transformers.attention.kv_cache import KvCache
from mesh.engine.transformers.attention.paged import PagedKernels, PagedRows, PagedStep, split
from mesh.engine.transformers.attention.sdpa import SdpaStep
from mesh.engine.transformers.layers.prepack import computes_a_row_plainly
from mesh.engine.transformers.layers.whole_graph import Forward, compile_recorded, record
from mesh.engine.transformers.lora.hooks import Share
from mesh.engine.transformers.runners.ahead import Ahead
from mesh.engine.transformers.runners.block_table import BlockTable
from mesh.engine.transformers.runners.cuda_graphs import DecodeGraphs, DecodeInputs
from mesh.engine.transformers.runners.lora_batch import shares_of
from mesh.engine.transformers.runners.picture_batch import joined, runs_of, shifts, shown_in
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.scheduling.sequence import Batch, Row
from mesh.engine.transformers.vision.pictures import positions
from mesh.engine.transformers.vision.tower import Tower

_computed = attrgetter("computed")
# Tokens of a short prompt to warm up with: a number like any other.
_WARM_UP = 200
# Ids to warm up with: any vocabulary has them.
_FEW_IDS = 13


@dataclass(frozen=True, slots=True)
class _Facts:
    """A step on the host: `tokens`, `positions` ([tokens] or [3, tokens]) and `slots` of all its tokens, `keep` the
    places whose logits are wanted, `lines` and `lengths` of the decoding rows, and the pieces."""

    tokens: list[int]
    positions: IntArray
    slots: IntArray
    keep: list[int]
    lines: IntArray
    lengths: IntArray
    pieces: list[Piece]


def is_spread(model: PreTrainedModel) -> bool:
    """Whether a model's layers are on several devices."""
    places: dict[str, object] = getattr(model, "hf_device_map", None) or {}
    return len(set(places.values())) > 1


class PackedRunner(Runner):
    """Runs a model whose attention is set to `attention.NAME`.

    `max_rows` and `max_pages` bound the slots and the pages of one row. Without `kernels` attention is torch's own.
    `tower` is given for models that see pictures.
    """

    execution = "packed"
    shares_prefix = True
    chunks = True

    def __init__(
        self,
        model: PreTrainedModel,
        cache: KvCache,
        max_rows: int,
        max_pages: int,
        kernels: Kernels | None = None,
        tower: Tower | None = None,
        *,
        look_ahead: bool = False,
    ) -> None:
        """`look_ahead` starts decoding steps early also without CUDA graphs."""
        self.cache = cache
        self._model = model
        self._tower = tower
        self.kernels = kernels
        # Once: both properties walk through the parameters.
        self._device, self._dtype = model.device, model.dtype
        # On CPUs a single row goes through other kernels than several, at the same speed and with another rounding.
        # It is computed twice instead, so that an answer does not depend on whether there is somebody beside it; not
        # where one row is computed in another way for its speed.
        self._pairs = self._device.type == "cpu" and not computes_a_row_plainly(model)
        self._table = BlockTable(max_rows, max_pages, self._device, on_device=isinstance(kernels, PagedKernels))
        # Where layers are spread over devices, the last ones could not use indices that lie on the first.
        self._slices_logits = not is_spread(model) and "logits_to_keep" in inspect.signature(model.forward).parameters
        self._graphs: DecodeGraphs | None = None
        self._whole: Forward | None = None
        self._look_ahead = look_ahead
        self._ahead: Ahead | None = None
        self.last_step: PackedStep | None = None

    def capture(self, max_rows: int) -> None:
        """Record steps of up to `max_rows` decoding rows as CUDA graphs; raises what the model's code raises."""
        graphs = DecodeGraphs(self._graph_forward, self._device, max_rows, self._table.padding)
        graphs.capture()
        self._graphs = graphs

    def forget_graphs(self) -> None:
        """Undo `capture`."""
        self._graphs = None

    @property
    def sees(self) -> bool:
        """Whether the model is shown pictures."""
        return self._tower is not None

    def compile_whole(self, compiler: Callable[[torch.fx.GraphModule], Forward] = compile_recorded) -> None:
        """Compute steps by one graph from now on; see whole_graph. Raises what the model or `compiler` raises."""
        self._whole = compiler(record(self._model, self._compute))

    def forget_whole(self) -> None:
        """Undo `compile_whole`."""
        self._whole = None

    def warm_up(self, tokens: int) -> list[torch.Tensor]:
        """Compute a row and prompts of up to `tokens` tokens on padding, so that what is made at first use is made now.

        Their logits.
        """
        padding, most = self._table.padding, min(tokens, self._most_keys)
        none = np.zeros(0, np.int64)
        found: list[torch.Tensor] = []
        for count in (1, min(_WARM_UP, most), most):
            pages = self._table.host[padding, : -(-count // self.cache.page_size)]
            piece = Piece(0, count, 0, padding, pages)
            slots = np.zeros(count, np.int64)
            ids = [place % _FEW_IDS for place in range(count)]
            facts = _Facts(ids, np.arange(count), slots, [count - 1], none, none, [piece])
            found.append(self._run(*self._prepare(facts)))
        return found

    def _graph_forward(self, inputs: DecodeInputs) -> torch.Tensor:
        rows = PagedRows(self._table.on_device(), inputs.lines, inputs.lengths, (), self._most_keys)
        assert isinstance(self.kernels, PagedKernels), "graphs without kernels that can be captured"
        step = PagedStep(self.cache, inputs.slots, rows, self.kernels)
        return self._run(inputs.tokens[None], inputs.positions[None], step, None)

    @property
    def _most_keys(self) -> int:
        return self._table.host.shape[1] * self.cache.page_size

    def forward(self, batch: Batch) -> torch.Tensor:
        """See Runner. One call of the model for all tokens, less those that were computed ahead."""
        batch.decode.sort(key=_computed, reverse=True)
        ahead, self._ahead = self._ahead, None
        logits = ahead.logits_of(batch.decode) if ahead is not None and batch.decode else None
        if logits is None:
            return self._forward(batch)
        return torch.cat([logits, self._forward(Batch(prefill=batch.prefill))]) if batch.prefill else logits

    def _forward(self, batch: Batch) -> torch.Tensor:
        facts = self._facts(batch)
        if self._graphs is not None and self._graphs.take(batch):
            return self._replay(facts)
        tokens, places, step, keep = self._prepare(facts)
        with shown_in(batch, self._tower):
            return self._run(tokens, places, step, keep, shares_of(batch, self._device))[: batch.kept]

    def _replay(self, facts: _Facts, tokens: torch.Tensor | None = None) -> torch.Tensor:
        assert self._graphs is not None, "nothing was captured"
        self._table.on_device()
        inputs = np.stack([np.array(facts.tokens), facts.positions, facts.slots, facts.lines, facts.lengths])
        return self._graphs.replay(inputs, tokens)

    def looks_ahead(self, batch: Batch) -> bool:
        """See Runner. Steps that only decode, by rows that no adapter changes."""
        if self._graphs is not None:
            return self._graphs.take(batch)
        return self._look_ahead and not batch.prefill and not batch.has_adapters

    def launch(self, rows: Sequence[tuple[int, Row]], token_ids: torch.Tensor) -> None:
        """See Runner."""
        self._table.fill(row for _, row in rows)
        places = torch.tensor([place for place, _ in rows], device=token_ids.device)
        going = [row for _, row in rows]
        lines = np.array([row.slot for row in going], dtype=np.int64)
        later = np.array([row.computed + 1 for row in going], dtype=np.int64)
        placed = later if self._tower is None else later + shifts(going)
        count = len(rows)
        facts = _Facts([0] * count, placed, self._slots(lines, later), list(range(count)), lines, later + 1, [])
        if self._graphs is not None:
            logits = self._replay(facts, token_ids[places])
        else:
            facts.tokens[:] = cast("list[int]", token_ids[places].tolist())
            logits = self._run(*self._prepare(facts))[:count]
        expected = {row: (place, row.computed + 1) for place, (_, row) in enumerate(rows)}
        self._ahead = Ahead(expected, logits)

    def _slots(self, lines: int | IntArray, positions: IntArray) -> IntArray:
        """Where the keys and values of these positions go."""
        size = self.cache.page_size
        return self._table.host[lines, positions // size] * size + positions % size

    def _run(
        self,
        tokens: torch.Tensor,
        places: torch.Tensor,
        step: PackedStep,
        keep: torch.Tensor | None,
        shares: Sequence[Share] = (),
    ) -> torch.Tensor:
        """Logits [len(keep), vocabulary], or of all tokens."""
        with running(step), self.adapted(shares):
            if self._whole is None:
                logits = self._compute(tokens, places, keep)
            else:
                logits = self._whole(tokens, places, torch.arange(tokens.shape[1]) if keep is None else keep)
        self.last_step = step
        return logits

    def _compute(self, tokens: torch.Tensor, places: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        arguments: dict[str, Any] = {}
        if self._slices_logits:
            # 0 keeps all, without a copy.
            arguments["logits_to_keep"] = 0 if keep is None else keep
        output = self._model(input_ids=tokens, position_ids=places, use_cache=False, **arguments)
        logits: torch.Tensor = output.logits[0]
        return logits[keep] if keep is not None and not self._slices_logits else logits

    def release(self, row: Row) -> None:
        """See Runner."""
        self._table.clear(row.slot)
        if self._ahead is not None:
            self._ahead.rows.pop(row, None)

    def wipe(self, pages: Sequence[int]) -> None:
        """See Runner."""
        self.cache.wipe(pages)

    def copy(self, pages: Mapping[int, int]) -> None:
        """See Runner."""
        self.cache.copy(pages)

    def reset(self) -> None:
        """See Runner."""
        self._ahead = None
        self.cache.wipe_all()

    def _facts(self, batch: Batch) -> _Facts:
        size, table = self.cache.page_size, self._table.host
        self._table.fill(batch.rows)
        decode = batch.decode
        computed = np.array([row.computed for row in decode], dtype=np.int64)
        lines = np.array([row.slot for row in decode], dtype=np.int64)
        tokens = [row.tokens[-1] for row in decode]
        placed = [computed if self._tower is None else computed + shifts(decode)]
        slots = [self._slots(lines, computed)]
        keep = list(range(len(decode)))
        pieces: list[Piece] = []
        for chunk in batch.prefill:
            row, start, first = chunk.row, chunk.row.computed, len(tokens)
            tokens += row.tokens[start : start + chunk.count]
            tokens += chunk.draft
            places = np.arange(start, start + chunk.count)
            placed.append(positions(row.work.pictures, start, start + chunk.count))
            slots.append(self._slots(row.slot, places))
            pages = table[row.slot, : -(-(start + chunk.count) // size)]
            runs = runs_of(row, start, start + chunk.count)
            pieces.append(Piece(first, len(tokens), start, row.slot, pages, runs))
            keep += range(len(tokens) - chunk.kept, len(tokens))
        return _Facts(tokens, joined(placed), np.concatenate(slots), keep, lines, computed + 1, pieces)

    def _prepare(self, facts: _Facts) -> tuple[torch.Tensor, torch.Tensor, PackedStep, torch.Tensor | None]:
        """Token ids [1, tokens], positions [1, tokens] or [3, 1, tokens], the attention's step, and the indices that
        are sampled (None: all)."""
        tokens, placed, keep = facts.tokens, facts.positions, facts.keep
        keep_all = len(keep) == len(tokens)
        if len(keep) < 2:
            keep = keep * 2 or [0, 0]
        if len(tokens) < 2 and self._pairs:
            tokens, placed = tokens * 2, np.repeat(placed, 2, axis=-1)
        parts = [np.array(tokens), placed.reshape(-1), facts.slots, np.array(keep), facts.lines, facts.lengths]
        # One transfer for all.
        whole = torch.from_numpy(np.concatenate(parts)).to(self._device, non_blocking=True)
        ids, places, slots, kept, lines, lengths = split(whole, [len(part) for part in parts])
        step = self._step(facts, slots, lines, lengths)
        places = places[None] if placed.ndim == 1 else places.view(3, 1, -1)
        return ids[None], places, step, None if keep_all else kept

    def _step(self, facts: _Facts, slots: torch.Tensor, lines: torch.Tensor, lengths: torch.Tensor) -> PackedStep:
        # The kernels know no other mask than the causal one.
        if isinstance(self.kernels, PagedKernels) and all(piece.runs is None for piece in facts.pieces):
            rows = PagedRows(self._table.on_device(), lines, lengths, facts.pieces, self._most_keys)
            return PagedStep(self.cache, slots, rows, self.kernels)
        width = -(-int(facts.lengths[0]) // self.cache.page_size) if len(facts.lengths) else 0
        tables = self._table.host[facts.lines, :width]
        single = self.kernels if isinstance(self.kernels, CppKernels) else None
        return SdpaStep(self.cache, slots, self._dtype, facts.lengths, tables, facts.pieces, single)
