"""Attention over packed rows, as the function that unmodified transformers models call in every layer.

All tokens of a step lie side by side: `decoding` rows with one token each, by falling length, then pieces of
prompts. Keys and values go to the paged cache; how the queries attend over it is up to the step: with torch's
own kernels (sdpa.py) or with kernels that read the pages where they lie (paged.py).

The name is unknown to transformers' mask interface, which therefore builds no mask.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import AttentionInterface

from mesh.engine.transformers.attention.kv_cache import IntArray, KvCache, LayerCache

NAME = "mesh_packed"


class PackingError(Exception):
    """The model asks for attention that packed rows cannot give."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `first` to `last` (exclusive) of the step: those from `start` on of the row in `slot`, whose pages are
    `pages`.

    `runs`, where there is one, tells for each token of the row up to the piece's end which run of neighbours that see
    each other it belongs to, -1 for none.
    """

    first: int
    last: int
    start: int
    slot: int
    pages: IntArray
    runs: IntArray | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """What a layer may ask for beyond plain attention; `window` counts the query's own token."""

    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def plain(self) -> bool:
        """Whether torch has a kernel for it."""
        return self.softcap is None and self.sinks is None


@dataclass(slots=True)
class LayerCall:
    """One call of the attention function, for the self-test."""

    layer: int
    window: int | None


class PackedStep(ABC):
    """The facts about one step. `slots` [tokens] is where the new keys and values go; what the model computes beyond
    that many tokens is padding."""

    def __init__(self, cache: KvCache, slots: torch.Tensor) -> None:
        self.cache = cache
        self.slots = slots
        self.calls: list[LayerCall] = []

    def store(self, cached: LayerCache, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put the new keys and values [tokens, KV heads, size] at their places."""
        cached.keys.index_copy_(0, self.slots, k)
        cached.values.index_copy_(0, self.slots, v)

    @abstractmethod
    def attend(
        self, cached: LayerCache, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, variant: Variant, out: torch.Tensor
    ) -> None:
        """Attention of the new tokens over their rows, theirs included, which are in the cache already.

        q [tokens, heads, key size], k and v [tokens, KV heads, size], result to `out` [tokens, heads, value size].
        """


class _Current(threading.local):
    """The step that this thread's forward belongs to."""

    step: PackedStep | None = None


_current = _Current()


class running:
    """Context in which the models of this thread attend over `step`."""

    def __init__(self, step: PackedStep) -> None:
        self._step = step

    def __enter__(self) -> PackedStep:
        _current.step = self._step
        return self._step

    def __exit__(self, *_: object) -> None:
        _current.step = None


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One layer's attention over the step's rows. See transformers' AttentionInterface.

    query [1, heads, tokens, key size], key and value [1, KV heads, tokens, size] -> [1, tokens, heads, value size].
    """
    step = _current.step
    layer = getattr(module, "layer_idx", None)
    if step is None or layer is None:
        raise PackingError("attention outside of a packed step" if step is None else "a layer without an index")
    if attention_mask is not None or position_bias is not None or is_causal is False:
        raise PackingError("attention with a mask or a bias of the model's own")
    step.calls.append(LayerCall(layer, sliding_window))
    sinks = None if s_aux is None else s_aux.to(step.slots.device)
    variant = Variant(scaling, sliding_window, softcap, sinks)
    tokens, real = query.shape[2], step.slots.shape[0]
    # The cache is on the first device, also of a model whose layers are spread over several.
    q, k, v = (x[0].transpose(0, 1)[:real].to(step.slots.device) for x in (query, key, value))
    cached = step.cache.layer(layer, k, v)
    step.store(cached, k, v)
    out = q.new_empty((tokens, q.shape[1], v.shape[2]))
    if tokens != real:
        out[real:] = 0
    step.attend(cached, q, k, v, variant, out[:real])
    return out[None].to(query.device), None


cast("Any", AttentionInterface).register(NAME, packed_attention)
