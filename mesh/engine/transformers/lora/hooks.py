"""LoRA adapters in the forward pass: what they add to the outputs of a model's linear layers, for their own rows only.

An adapter changes a layer's weight W to W + s·B·A. Here the layer stays as it is, plain, packed or quantized, and its
output gets s·(x·Aᵀ)·Bᵀ for the tokens of the adapter's rows, so that rows of many adapters and of none share a step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """The change of one layer: `down` [in, rank] is Aᵀ, `up` [rank, out] is s·Bᵀ, both contiguous.

    In this layout the products of a row are, on CPUs, the same in every bit whatever the number of rows beside it, as
    long as there are two at least; with A and B as they are stored they are not.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, eq=False)
class Adapter:
    """A loaded adapter. `fingerprint` is that of the base model changed by it; `chat_template` is its own, if it has
    one. Lives as long as a row uses it, also after it was unloaded.
    """

    name: str
    fingerprint: str
    layers: Mapping[str, LoraLayer]
    chat_template: str | None = None

    @property
    def parameters(self) -> int:
        """Numbers in A and B of all layers."""
        return sum(layer.down.numel() + layer.up.numel() for layer in self.layers.values())


@dataclass(frozen=True, slots=True)
class Place:
    """A linear layer of the model. Only one that is computed exactly once for each token can be `adaptable`."""

    module: nn.Module
    in_features: int
    out_features: int
    adaptable: bool

    @property
    def device(self) -> torch.device | None:
        """Where its weight is; None if it does not tell, or is offloaded."""
        weight = next(self.module.parameters(), None)
        return None if weight is None or weight.is_meta else weight.device


@dataclass(slots=True)
class Share:
    """The tokens of a step, as indices of rows of a layer's input, that an adapter is for; None are all."""

    adapter: Adapter
    tokens: slice | torch.Tensor | None


def find_places(model: nn.Module, run: Callable[[], int | None]) -> dict[str, Place]:
    """The linear layers of a model by their path. `run` runs it once and returns the number of tokens, or None where
    a forward has only one row, so that the number of tokens does not matter.
    """
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    linear = {name: (module, size) for name, module in named if (size := _linear_size(module))}
    seen: dict[str, list[int]] = {name: [] for name in linear}
    handles = [module.register_forward_hook(_noting(seen[name])) for name, (module, _) in linear.items()]
    try:
        tokens = run()
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: Place(module, *size, len(seen[name]) == 1 and tokens in (None, seen[name][0]))
        for name, (module, size) in linear.items()
    }


def _noting(seen: list[int]) -> Callable[[nn.Module, Any, Any], None]:
    def note(_: nn.Module, arguments: Any, output: Any) -> None:
        if arguments and isinstance(output, torch.Tensor):
            seen.append(output.numel() // output.shape[-1])

    return note


def _linear_size(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer of any kind, None for other modules."""
    for names in (("in_features", "out_features"), ("nx", "nf")):  # the second of GPT-2's Conv1D
        size = tuple(getattr(module, name, None) for name in names)
        if all(isinstance(number, int) for number in size):
            return cast("tuple[int, int]", size)
    return None


class LoraHooks:
    """Adds to the layers of a model what adapters contribute. Belongs to the engine's thread.

    The hooks are in place from a step with adapters to the next one without, which then costs nothing.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._handles: dict[str, RemovableHandle] = {}
        self._shares: Sequence[Share] = ()

    @contextmanager
    def applied(self, shares: Sequence[Share]) -> Generator[None]:
        """While this lasts, each adapter changes the outputs for its tokens."""
        self._attach({name for share in shares for name in share.adapter.layers})
        self._shares = shares
        try:
            yield
        finally:
            self._shares = ()

    def _attach(self, names: set[str]) -> None:
        if not names:
            for handle in self._handles.values():
                handle.remove()
            self._handles.clear()
        for name in names - self._handles.keys():
            self._handles[name] = self._places[name].module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]:
        def add(_: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            x: torch.Tensor = arguments[0]
            rows = output.reshape(-1, output.shape[-1])
            for share in self._shares:
                layer = share.adapter.layers.get(name)
                if layer is not None:
                    _add(rows, x.reshape(-1, x.shape[-1]), layer, share.tokens)
            return rows.view_as(output)

        return add


def _add(rows: torch.Tensor, x: torch.Tensor, layer: LoraLayer, tokens: slice | torch.Tensor | None) -> None:
    """Add a layer's change to `rows` [all tokens, out], for the `tokens` of its input `x` [all tokens, in]."""
    if isinstance(tokens, torch.Tensor):
        tokens = tokens.to(x.device)  # a no-op, except where a model's layers are on several devices
    own = x if tokens is None else x[tokens]
    change = (own.to(layer.down.dtype) @ layer.down @ layer.up).to(rows.dtype)
    if tokens is None:
        rows += change
    else:
        rows[tokens] += change
