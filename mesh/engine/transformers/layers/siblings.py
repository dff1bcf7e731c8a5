"""Linear layers of one parent that read the same input, such as those of queries, keys and values, computed as one.

One large product is faster than several small ones: measured for a model of 132M parameters with one to eight rows,
15 to 20 % of the time of these layers. Which layers belong together is not told by their names: the model is run once
and watched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from mesh.engine.transformers.layers.linear import Place, SealedLinear, output_of


@dataclass(frozen=True, slots=True)
class Site:
    """One linear layer, or several that read the same input; each is to be replaced as a whole."""

    places: Sequence[Place]

    @property
    def name(self) -> str:
        """What to call it."""
        return ", ".join(place.name for place in self.places)

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return sum(place.weight.numel() * place.weight.element_size() for place in self.places)

    def weight(self) -> torch.Tensor:
        """The weights one below the other [out, in]."""
        return torch.cat([place.weight for place in self.places]) if len(self.places) > 1 else self.places[0].weight

    def bias(self) -> torch.Tensor | None:
        """The biases one after the other [out]."""
        biases = [place.bias for place in self.places if place.bias is not None]
        return torch.cat(biases) if biases else None

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        """What the layers make of x [..., in] -> [..., out]."""
        outputs: list[torch.Tensor] = [place.plain(x) for place in self.places]
        return torch.cat(outputs, dim=-1)

    def relative_error(self, replacement: nn.Module, rows: int) -> float:
        """How much the replacement differs from the plain layers on `rows` random rows, in L2 norms."""
        first = self.places[0].weight
        x = torch.randn(1, rows, first.shape[1], generator=torch.Generator().manual_seed(0)).to(first.dtype)
        expected: torch.Tensor = self.plain(x).float()
        found: torch.Tensor = replacement(x).float()
        return ((found - expected).square().sum().sqrt() / (expected.square().sum().sqrt() + 1e-12)).item()

    def replace(self, module: SealedLinear) -> None:
        """Let the module compute the layers from now on. The plain weights go at once."""
        if len(self.places) == 1:
            self.places[0].replace(module)
            return
        product = _Product(module, [place.weight.shape[0] for place in self.places])
        for index, place in enumerate(self.places):
            place.replace(Part(place, product, index))


class Part(SealedLinear):
    """One of several layers that are computed together, where it was in the model."""

    def __init__(self, place: Place, product: _Product, index: int) -> None:
        super().__init__(place.weight, place.bias)
        self._product = product
        self._index = index

    @property
    def whole(self) -> nn.Module:
        """What computes this layer and its siblings."""
        return self._product.compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out], a view of what its siblings get as well."""
        return self._product.take(self._index, x)


class _Product:
    """The outputs of all siblings for one input, until each has taken its own."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor], widths: Sequence[int]) -> None:
        self.compute = cast("nn.Module", compute)
        self._compute = compute
        self._widths = list(widths)
        self._x: torch.Tensor | None = None
        self._outputs: list[torch.Tensor | None] = [None] * len(widths)

    def take(self, index: int, x: torch.Tensor) -> torch.Tensor:
        output = self._outputs[index] if x is self._x else None
        if output is None:
            self._x = x
            outputs: list[torch.Tensor] = list(self._compute(x).split_with_sizes(self._widths, dim=-1))
            output = outputs[index]
            self._outputs = [*outputs]
        self._outputs[index] = None
        if index == len(self._widths) - 1:
            self._x = None
        return output


class _Watched(SealedLinear):
    """Computes with the plain layer and notes what it was given."""

    def __init__(self, place: Place, seen: list[tuple[Place, torch.Tensor]]) -> None:
        super().__init__(place.weight, place.bias)
        self._place = [place]  # in a list: its layer is no submodule
        self._seen = seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = self._place[0]
        self._seen.append((place, x))
        return place.plain(x)


def sites(model: PreTrainedModel, places: Sequence[Place], vocab_size: int) -> list[Site]:
    """All places, those together that the model can have computed together. Layers that the trial did not come by, such
    as those of experts, stay single."""
    seen: list[tuple[Place, torch.Tensor]] = []
    expected = _run(model, vocab_size, places, [_Watched(place, seen) for place in places])
    found = [Site(group) for group in _groups(seen)]
    joined = [place for site in found for place in site.places]
    parts = [Part(place, product, index) for site in found for place, product, index in _trial(site)]
    if found and not torch.equal(_run(model, vocab_size, joined, parts), expected):
        found, joined = [], []
    taken = {id(place) for place in joined}
    return found + [Site([place]) for place in places if id(place) not in taken]


def _groups(seen: Sequence[tuple[Place, torch.Tensor]]) -> list[list[Place]]:
    """Layers of one parent that were given the same tensor one after the other, each called once in all."""
    calls = [id(place) for place, _ in seen]
    once = [(place, x) for place, x in seen if calls.count(id(place)) == 1]
    runs = [[place for place, _ in run] for _, run in groupby(once, lambda call: (id(call[0].parent), id(call[1])))]
    return [run for run in runs if len(run) > 1 and len({place.bias is None for place in run}) == 1]


def _trial(site: Site) -> list[tuple[Place, _Product, int]]:
    product = _Product(site.plain, [place.weight.shape[0] for place in site.places])
    return [(place, product, index) for index, place in enumerate(site.places)]


def _run(
    model: PreTrainedModel, vocab_size: int, places: Sequence[Place], modules: Sequence[nn.Module]
) -> torch.Tensor:
    """The model's output with these modules at these places."""
    try:
        for place, module in zip(places, modules, strict=True):
            place.put(module)
        return output_of(model, vocab_size)
    finally:
        for place in places:
            place.put(place.plain)
