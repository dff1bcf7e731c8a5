"""The test that a model must pass to be run packed: all attention goes through our function, and the logits agree.

A flag of transformers that promises the first does not hold for all models that carry it, and a wrong answer would be
silent. So each model is tried when it is loaded, with two short rows through the very code that serves requests.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mesh.engine.base import Sampling
from mesh.engine.transformers.attention.interface import NAME, LayerCall, PackingError
from mesh.engine.transformers.attention.kernels import Kernels
from mesh.engine.transformers.attention.kv_cache import KvCache, LayerShape
from mesh.engine.transformers.layers.int8 import Int8Linear
from mesh.engine.transformers.runners.packed import PackedRunner
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row, Work

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
# Largest relative difference (L2 norms) of the logits. Two correct ways to add up half-precision numbers differ by
# some percent after many layers; a wrong mask or position differs by the size of the logits themselves. So do two
# correct ways in float32 before layers of 8 bits, which make of a last bit a whole step of theirs.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE = 0.1
_LONG, _SHORT, _STEPS = 24, 17, 4
_FEW = 3


def tolerance(model: PreTrainedModel) -> float:
    """The largest relative difference of a model's logits that rounding explains."""
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        return _COARSE_TOLERANCE
    return _TOLERANCE.get(model.dtype, _COARSE_TOLERANCE)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The size of the difference over the size of `expected` (L2 norms); infinite where `found` is not finite."""
    found, expected = found.double(), expected.double()
    difference = ((found - expected).square().sum() / (expected.square().sum() + 1e-24)).sqrt().item()
    return difference if difference == difference else float("inf")


@dataclass(slots=True)
class Verdict:
    """`reason` says why the model cannot be run packed, None that it can; `shapes` are its layers' sizes then, and
    `difference` the largest relative difference of its logits."""

    reason: str | None
    shapes: dict[int, LayerShape] = field(default_factory=dict[int, LayerShape])
    difference: float = 0.0


def check_packed(
    model: PreTrainedModel,
    vocab_size: int,
    context_length: int,
    page_size: int,
    kernels: Kernels | None = None,
) -> Verdict:
    """Try to run `model` packed, with torch's own attention or with `kernels`. On success its attention is ours from
    now on, else it is as it was."""
    config = model.config.get_text_config(decoder=True)
    reason = _refuse_by_config(model.config, config, context_length)
    if reason is not None:
        return Verdict(reason)
    before: str | None = config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    with _quiet():
        try:
            return _Trial(model, config, vocab_size, context_length, page_size, kernels).run()
        except PackingError as error:
            reason = str(error)
        except Exception as error:  # whatever an unknown model's code may raise
            reason = f"{type(error).__name__}: {error}"
        attend_by(model, before)
    return Verdict(reason)


def attend_by(model: PreTrainedModel, name: str | None) -> None:
    """Set the attention of a model's decoder; what else it has, such as a vision tower, keeps its own."""
    top: Any = model.config
    text = top.get_text_config(decoder=True)
    own: str | None = next((key for key in top.sub_configs if getattr(top, key, None) is text), None)
    model.set_attn_implementation(cast("Any", name if own is None else {own: name}))


def run_packed_once(model: PreTrainedModel, vocab_size: int, page_size: int) -> int:
    """Run a model that can be packed, over a few made-up tokens of one row; returns their number."""
    ids = [(17 + 7919 * place) % vocab_size for place in range(_FEW)]
    pages = -(-len(ids) // page_size)
    row = Row(Work(key=0, order=0, sampling=Sampling(seed=0), prompt=ids), 0, ids, 0, 0, frozenset(), slot=0)
    row.pages = list(range(1, pages + 1))
    cache = KvCache(1 + pages, page_size, model.dtype, model.device)
    PackedRunner(model, cache, 1, pages).forward(Batch([], [Chunk(row, len(ids), 1)]))
    return len(ids)


@contextmanager
def _quiet() -> Generator[None]:
    """Without transformers' warnings, which would announce what the verdict says."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _refuse_by_config(top: PretrainedConfig, config: PretrainedConfig, context_length: int) -> str | None:
    """What the short rows of the trial would not show."""
    if top.is_encoder_decoder:
        return "it has an encoder"
    kinds: set[str] = set(getattr(config, "layer_types", None) or ())
    chunk = getattr(config, "attention_chunk_size", None)
    if "chunked_attention" in kinds and chunk and context_length <= chunk:
        kinds.discard("chunked_attention")  # within one chunk it is full attention
    if others := kinds - _ATTENTION_LAYERS:
        return f"it has layers of type {', '.join(sorted(others))}"
    return _length_dependent_rope(config, context_length)


def _length_dependent_rope(config: PretrainedConfig, context_length: int) -> str | None:
    """Rope scalings that look at the longest row would let rows of a batch change each other."""
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested: list[dict[str, Any]] = [value for value in parameters.values() if isinstance(value, dict)]
    own_limit: int = getattr(config, "max_position_embeddings", 0)
    trained: int | None = getattr(config, "original_max_position_embeddings", None)
    for rope in [parameters, *nested]:
        limit: int = rope.get("original_max_position_embeddings") or trained or own_limit
        kind: str | None = rope.get("rope_type") or rope.get("type")
        if kind in ("dynamic", "longrope") and context_length > limit:
            return f"its {kind} rope depends on the length of the longest row beyond {limit} tokens"
    return None


class _Trial:
    """Two rows: one is prefilled, then decodes while the other is prefilled in two pieces, then both decode."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: PretrainedConfig,
        vocab_size: int,
        context: int,
        page_size: int,
        kernels: Kernels | None,
    ) -> None:
        self._model = model
        self._kernels = kernels
        self._difference = 0.0
        self._config = config
        self._page_size = page_size
        self._context = context
        window = self._smallest_window()
        long = window + _LONG if window is not None and window <= 64 else _LONG
        long = max(2, min(long, context - _STEPS - 1))
        short = max(2, min(_SHORT, long))
        self._ids = [
            [(17 + 7919 * place + 31 * row) % vocab_size for place in range(length + _STEPS)]
            for row, length in enumerate((long, short))
        ]
        self._lengths = (long, short)

    def _smallest_window(self) -> int | None:
        window = getattr(self._config, "sliding_window", None)
        # One that no row outgrows hides nothing.
        return window if isinstance(window, int) and window < self._context else None

    def run(self) -> Verdict:
        """Compare, and check that every layer's attention was ours."""
        # The attention that models spell out themselves: others may leave out what they have no kernel for.
        attend_by(self._model, "eager")
        expected = [self._plain(ids) for ids in self._ids]
        attend_by(self._model, NAME)
        pages_each = [-(-len(ids) // self._page_size) for ids in self._ids]
        cache = KvCache(1 + sum(pages_each), self._page_size, self._model.dtype, self._model.device)
        runner = PackedRunner(self._model, cache, len(self._ids), max(pages_each), self._kernels)
        for batch in self._batches(pages_each):
            logits = runner.forward(batch)
            self._check_calls(runner)
            rows = batch.sampled
            for row, found in zip(rows, logits, strict=True):
                self._compare(found, expected[row.slot][len(row.tokens) - 1])
            for row in batch.decode:
                row.computed += 1
            for chunk in batch.prefill:
                chunk.row.computed += chunk.count
            for row in rows:
                row.tokens.append(self._ids[row.slot][len(row.tokens)])
        return Verdict(None, cache.shapes, self._difference)

    def _plain(self, ids: list[int]) -> torch.Tensor:
        tokens = torch.tensor([ids], device=self._model.device)
        return self._model(input_ids=tokens, use_cache=False).logits[0]

    def _batches(self, pages_each: list[int]) -> list[Batch]:
        work = Work(key=0, order=0, sampling=Sampling(seed=0), prompt=[])
        rows: list[Row] = []
        first_page = 1
        for slot, (length, pages) in enumerate(zip(self._lengths, pages_each, strict=True)):
            row = Row(work, slot, self._ids[slot][:length], 0, 0, frozenset(), slot=slot)
            row.pages = list(range(first_page, first_page + pages))
            first_page += pages
            rows.append(row)
        long, short = rows
        half = len(short.tokens) // 2
        return [
            Batch([], [Chunk(long, len(long.tokens), kept=1)]),
            Batch([long], [Chunk(short, half, kept=0)]),
            Batch([long], [Chunk(short, len(short.tokens) - half, kept=1)]),
            Batch([long, short], []),
        ]

    def _check_calls(self, runner: PackedRunner) -> None:
        step = runner.last_step
        calls: list[LayerCall] = step.calls if step else []
        layers = self._config.num_hidden_layers
        if sorted(call.layer for call in calls) != list(range(layers)):
            raise PackingError(f"{len(calls)} attention calls in {layers} layers")
        kinds = getattr(self._config, "layer_types", None)
        for call in calls:
            sliding = self._windowed(kinds, call.layer)
            if sliding is not None and sliding != (call.window is not None):
                raise PackingError(f"layer {call.layer} does not tell its sliding window")

    def _windowed(self, kinds: list[str] | None, layer: int) -> bool | None:
        """Whether a layer must have a window, None if the configuration does not say or it would hide nothing."""
        window = self._smallest_window()
        if kinds:
            return kinds[layer] == "sliding_attention" if window is not None else None
        return True if window is not None and getattr(self._config, "use_sliding_window", True) else None

    def _compare(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        if not torch.isfinite(found).all():
            raise PackingError("its packed logits are not finite")
        difference, limit = relative_difference(found, expected), tolerance(self._model)
        self._difference = max(self._difference, difference)
        if difference > limit:
            raise PackingError(f"its packed logits differ by {difference:.2g} of their size, more than {limit:g}")
