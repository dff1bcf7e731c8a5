"""Which pages belong to which row, on the host and, for kernels that read pages, on the device."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from mesh.engine.transformers.attention.interface import IntArray
from mesh.engine.transformers.scheduling.sequence import Row


class BlockTable:
    """One line of page numbers per slot, 0 where there is none yet. One line more, for padding, stays 0.

    `host` is [lines, pages] int64. With `on_device` a copy in int32 follows it: only what is new is sent.
    """

    def __init__(self, slots: int, pages: int, device: torch.device, *, on_device: bool) -> None:
        self.host: IntArray = np.zeros((slots + 1, pages), dtype=np.int64)
        self.padding = slots
        self._filled = [0] * slots
        self._device = torch.zeros((slots + 1, pages), dtype=torch.int32, device=device) if on_device else None
        self._news: list[tuple[int, int, int]] = []

    def fill(self, rows: Iterable[Row]) -> None:
        """Bring the rows' lines up to date."""
        for row in rows:
            have, pages = self._filled[row.slot], row.pages
            if have == len(pages):
                continue
            self.host[row.slot, have : len(pages)] = pages[have:]
            self._filled[row.slot] = len(pages)
            if self._device is not None:
                self._news += [(row.slot, place, pages[place]) for place in range(have, len(pages))]

    def clear(self, slot: int) -> None:
        """Forget a row. On the device its old pages stay named: no length reaches there."""
        self.host[slot, : self._filled[slot]] = 0
        self._filled[slot] = 0

    def on_device(self) -> torch.Tensor:
        """The copy on the device [lines, pages] int32, up to date, always at the same address."""
        assert self._device is not None, "a table without a copy on the device"
        if self._news:
            news = torch.tensor(self._news, dtype=torch.int64).to(self._device.device)
            self._device[news[:, 0], news[:, 1]] = news[:, 2].to(torch.int32)
            self._news.clear()
        return self._device
