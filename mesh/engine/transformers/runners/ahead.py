"""A decoding step that was started before the host knew the tokens of the step before it.

On a GPU the host's part of a step (reading the tokens, deciding who has ended, scheduling) would leave the device
idle. So the next step starts from the sampled tokens as they lie on the device, for the rows that are likely to go on.
If a row has ended after all, its share was in vain; what it wrote lies in pages that the next holder writes anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mesh.engine.transformers.scheduling.sequence import Row


@dataclass(slots=True)
class Ahead:
    """`rows` maps each row to its place in `logits` [rows, vocabulary] and the position of the token they follow."""

    rows: dict[Row, tuple[int, int]]
    logits: torch.Tensor

    def logits_of(self, rows: Sequence[Row]) -> torch.Tensor | None:
        """The logits of these rows in order, None unless all are there and stand where they were expected to."""
        places: list[int] = []
        for row in rows:
            place, position = self.rows.get(row, (-1, -1))
            if position != row.computed:
                return None
            places.append(place)
        if places == list(range(len(self.logits))):
            return self.logits
        return self.logits[torch.tensor(places, device=self.logits.device)]
