"""A model's forward on a CPU as one compiled graph: one call in place of thousands, and one pass over memory where the
model's code has several small steps in a row.

The forward is recorded once, for any number of tokens. What depends on more than the tokens' number stays as it is, an
operator of ours that the compiler does not look into: attention, which goes by the step, and linear layers in a layout
of their own. Compiled layer by layer instead, a step on a CPU takes as long as without: what is saved inside of the
layers is lost on the way into them.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, cast
from weakref import WeakValueDictionary

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from mesh.engine.transformers.attention.interface import NAME, PackingError, packed_attention
from mesh.engine.transformers.layers.linear import SealedLinear
from mesh.engine.transformers.layers.siblings import Part

# Logits [kept, vocabulary] of tokens [1, n] at positions [1, n], of those whose places are kept.
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# Of the recording: numbers that no model's code has for its own, so that they can be told from what belongs to it.
_TOKENS, _KEPT = 37, 19
# The number of threads is the process's, and not that of the process which filled the compiler's cache.
_SETTINGS: Final = {"cpp.dynamic_threads": True}


class NotRecordedError(Exception):
    """The model's code goes by more than its inputs, so that a recording would not be the model."""


class _Layer(NamedTuple):
    """What `packed_attention` looks at in a module."""

    layer_idx: int


_sealed: WeakValueDictionary[int, SealedLinear] = WeakValueDictionary()
_numbers = itertools.count()

torch.library.define("mesh::sealed_linear", "(Tensor x, int number, int outputs) -> Tensor")
torch.library.define(
    "mesh::packed_attention",
    "(Tensor query, Tensor key, Tensor value, int layer, float? scaling, int? window, float? softcap, Tensor? sinks)"
    " -> Tensor",
)


def _linear(x: torch.Tensor, number: int, outputs: int) -> torch.Tensor:
    del outputs
    return type(_sealed[number]).forward(_sealed[number], x)


def _linear_shape(x: torch.Tensor, number: int, outputs: int) -> torch.Tensor:
    del number
    return x.new_empty((*x.shape[:-1], outputs))


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, *variant: Any) -> torch.Tensor:
    module = cast("nn.Module", _Layer(layer))
    return packed_attention(module, query, key, value, None, *variant)[0]


def _attention_shape(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty((1, query.shape[2], query.shape[1], value.shape[3]))


for _name, _run, _shape in (
    ("mesh::sealed_linear", _linear, _linear_shape),
    ("mesh::packed_attention", _attention, _attention_shape),
):
    torch.library.impl(_name, "CompositeExplicitAutograd", _run)
    torch.library.register_fake(_name, _shape)


def record(model: PreTrainedModel, forward: Forward) -> torch.fx.GraphModule:
    """The operations of `forward`, which runs `model`, as a graph with the same arguments.

    Raises NotRecordedError, or whatever the model's code raises when it is given tensors without values.
    """
    tracer: Any = importlib.import_module("torch.fx.experimental.proxy_tensor")
    tokens, positions = torch.zeros(1, _TOKENS, dtype=torch.int64), torch.arange(_TOKENS)[None]

    def traced(tokens: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return forward(tokens, positions, keep)  # the tracer counts a method's `self`

    with _hidden(model):
        tracing = tracer.make_fx(traced, tracing_mode="symbolic", _allow_non_fake_inputs=True)
        graph = tracing(tokens, positions, torch.arange(_KEPT))
    tokens, _, kept = _inputs(graph)
    if not (isinstance(tokens.shape[1], torch.SymInt) and isinstance(kept.shape[0], torch.SymInt)):
        raise NotRecordedError("its code is written for one number of tokens")
    if graph.shape_env.guards:
        raise NotRecordedError(f"its code goes by the number of tokens: {graph.shape_env.guards[0].expr}")
    return graph


def compile_recorded(graph: torch.fx.GraphModule) -> Forward:
    """The graph through torch's compiler, which needs one for C++. Raises whatever that raises."""
    inductor: Any = importlib.import_module("torch._inductor.compile_fx")
    run = inductor.compile_fx(graph, _inputs(graph), config_patches=_SETTINGS)

    def forward(tokens: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        found = run(tokens, positions, keep)
        return found if isinstance(found, torch.Tensor) else found[0]

    return forward


def _inputs(graph: torch.fx.GraphModule) -> Sequence[Any]:
    return [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]


@contextmanager
def _hidden(model: nn.Module) -> Generator[None]:
    """Attention and sealed linear layers as operators of ours. Other threads' models may run meanwhile."""
    interface: Any = AttentionInterface
    wholes = [module.whole if isinstance(module, Part) else module for module in model.modules()]
    layers = {id(layer): layer for layer in wholes if isinstance(layer, SealedLinear)}.values()
    try:
        interface.register(NAME, _hidden_attention)
        for layer in layers:
            number = next(_numbers)
            _sealed[number] = layer
            layer.forward = partial(_call_linear, number=number, outputs=layer.out_features)
        yield
    finally:
        interface.register(NAME, packed_attention)
        for layer in layers:
            vars(layer).pop("forward", None)


def _call_linear(x: torch.Tensor, number: int, outputs: int) -> torch.Tensor:
    return torch.ops.mesh.sealed_linear.default(x, number, outputs)


def _hidden_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    layer: Any = getattr(module, "layer_idx", None)
    asked = attention_mask is not None or others.get("position_bias") is not None or others.get("is_causal") is False
    if layer is None or asked:
        raise PackingError("attention that packed rows cannot give")
    run = torch.ops.mesh.packed_attention.default
    return run(query, key, value, layer, scaling, sliding_window, softcap, s_aux), None
