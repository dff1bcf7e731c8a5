"""The memory behind the pages: keys and values of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of one layer's entries for one token: heads, and elements per head of keys and of values."""

    heads: int
    key_size: int
    value_size: int


class LayerCache:
    """Keys [tokens, heads, key_size] and values [tokens, heads, value_size] of one layer."""

    __slots__ = ("key_pages", "keys", "page_size", "shape", "value_pages", "values")

    def __init__(self, shape: LayerShape, pages: int, page_size: int, like: torch.Tensor) -> None:
        tokens = pages * page_size
        self.shape = shape
        self.page_size = page_size
        self.keys = _zeros((tokens, shape.heads, shape.key_size), like)
        self.values = _zeros((tokens, shape.heads, shape.value_size), like)
        self.key_pages = self.keys.view(pages, -1)
        self.value_pages = self.values.view(pages, -1)


def _zeros(shape: tuple[int, int, int], like: torch.Tensor) -> torch.Tensor:
    """Zeros, because what a mask hides still enters a product: garbage could be NaN, which no weight of 0 hides.

    On CPUs by way of numpy, whose zeros take memory only when they are touched; torch writes them.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    size = shape[0] * shape[1] * shape[2] * like.element_size()
    return torch.from_numpy(np.zeros(size, np.uint8)).view(like.dtype).view(shape)


def index_of(pages: IntArray, device: torch.device) -> torch.Tensor | slice:
    """What reads these pages fastest: a slice where each is the next of the one before."""
    if len(pages) and bool((np.diff(pages) == 1).all()):
        return slice(int(pages[0]), int(pages[-1]) + 1)
    return torch.from_numpy(pages).to(device)


class KvCache:
    """Keys and values of all layers. A layer's memory is taken when it is first asked for, or by `reserve`."""

    def __init__(self, pages: int, page_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.pages = pages
        self.page_size = page_size
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._layers: dict[int, LayerCache] = {}
        self._scratch: dict[int, torch.Tensor] = {}

    @property
    def shapes(self) -> dict[int, LayerShape]:
        """The layers that were used, and their sizes."""
        return {index: layer.shape for index, layer in self._layers.items()}

    @property
    def bytes_per_token(self) -> int:
        """Bytes of all layers that were used, for one token."""
        elements = sum(s.heads * (s.key_size + s.value_size) for s in self.shapes.values())
        return elements * self._like.element_size()

    def reserve(self, shapes: dict[int, LayerShape]) -> None:
        """Take the memory of these layers now."""
        for index, shape in shapes.items():
            self._layers[index] = LayerCache(shape, self.pages, self.page_size, self._like)

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> LayerCache:
        """A layer's memory, made for keys and values [tokens, heads, size] like these when it is first asked for."""
        layer = self._layers.get(index)
        if layer is None:
            shape = LayerShape(key.shape[1], key.shape[2], value.shape[2])
            layer = self._layers[index] = LayerCache(shape, self.pages, self.page_size, self._like)
        return layer

    def read(self, layer: LayerCache, pages: torch.Tensor | slice, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [rows, tokens, heads, size] of `pages` [rows * pages per row], valid until the next read.

        Pages that follow one another, a slice, are not copied.
        """
        shape = layer.shape
        keys = self._gather(0, layer.key_pages, pages).view(rows, -1, shape.heads, shape.key_size)
        values = self._gather(1, layer.value_pages, pages).view(rows, -1, shape.heads, shape.value_size)
        return keys, values

    def _gather(self, which: int, source: torch.Tensor, pages: torch.Tensor | slice) -> torch.Tensor:
        if isinstance(pages, slice):
            return source[pages]
        if source.device.type != "cpu":
            return source.index_select(0, pages)
        # Into memory that is there already: a fresh block of this size costs page faults, six times the copy itself.
        count, width = pages.shape[0], source.shape[1]
        scratch = self._scratch.get(which)
        if scratch is None or scratch.shape[0] < count * width:
            scratch = self._scratch[which] = source.new_empty(count * width + count * width // 4)
        out = scratch[: count * width].view(count, width)
        torch.index_select(source, 0, pages, out=out)
        return out

    def wipe(self, pages: Sequence[int]) -> None:
        """Set pages to zero: their content was not finite and would spoil who gets them next."""
        index = torch.tensor(pages, dtype=torch.long, device=self._like.device)
        for layer in self._layers.values():
            layer.key_pages.index_fill_(0, index, 0)
            layer.value_pages.index_fill_(0, index, 0)

    def copy(self, pages: Mapping[int, int]) -> None:
        """Fill pages, the keys, with the content of others, the values."""
        device = self._like.device
        targets = torch.tensor(list(pages), dtype=torch.long, device=device)
        sources = torch.tensor(list(pages.values()), dtype=torch.long, device=device)
        for layer in self._layers.values():
            for content in (layer.key_pages, layer.value_pages):
                content.index_copy_(0, targets, content.index_select(0, sources))

    def wipe_all(self) -> None:
        """Set everything to zero."""
        if self._like.device.type != "cpu":
            # In place: CUDA graphs know the memory by its address.
            for layer in self._layers.values():
                layer.keys.zero_()
                layer.values.zero_()
            return
        shapes = self.shapes
        # Dropped before they are made anew: there is no room for both.
        self._layers.clear()
        self.reserve(shapes)
