"""What grammars leave of the next token, for the rows of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from llguidance import LLExecutor

from mesh.engine.constraint import Matcher


class Masks:
    """What the grammars of a batch forbid next. Belongs to the engine's thread."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        """`vocab_size` is the width of the logits."""
        self._vocab_size = vocab_size
        self._bits = np.zeros((0, -(-vocab_size // 32)), np.int32)
        self._powers = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=device)
        self._executor: LLExecutor | None = None

    def forbidden(self, matchers: Sequence[Matcher]) -> torch.Tensor:
        """Which tokens each grammar rules out: [len(matchers), vocab_size] bool on the device.

        A matcher that has broken down allows the end of the turn alone, and will not accept it.
        """
        if self._executor is None:
            self._executor = LLExecutor(torch.get_num_threads())
        size, width = len(matchers), self._bits.shape[1]
        if size > len(self._bits):
            self._bits = np.zeros((size, width), np.int32)
        places = [(matcher.state, place) for place, matcher in enumerate(matchers)]
        # Rows in parallel, without Python's lock. torch's own threads are idle meanwhile.
        self._executor.unsafe_compute_mask_ptr(places, self._bits.ctypes.data, 4 * width, size)
        packed = torch.from_numpy(self._bits[:size].view(np.uint8)).to(self._powers.device)
        allowed = packed.unsqueeze(-1).bitwise_and(self._powers).flatten(1)
        return allowed[:, : self._vocab_size] == 0
