"""Batched sampling with options per row (skeleton: final signatures, being filled)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mesh.engine.base import Sampling

RowLogprob = tuple[float, list[tuple[int, float]]]


class RowState:
    """What the sampler keeps for one row (one choice of one request). Opaque to the engine, except `position`."""

    position: int  # tokens of the completion so far, resumed ones included; advanced by Sampler.sample


@dataclass(slots=True)
class SampledBatch:
    """Result of one call: all lists are parallel to the rows.

    `token_ids` holds -1 at failed rows. `logprobs` is None per row without request.output.logprobs, else the chosen
    token's logprob and the most likely (id, logprob), most likely first.
    """

    token_ids: list[int]
    logprobs: list[RowLogprob | None]
    failed: list[int] = field(default_factory=list[int])


class Sampler:
    """Chooses the next token of many rows at once. Not thread-safe: belongs to the engine thread."""

    def __init__(self, vocab_size: int, device: torch.device | str, eos_token_ids: Sequence[int] = ()) -> None:
        raise NotImplementedError

    def add(
        self,
        sampling: Sampling,
        choice: int,
        prompt_ids: Sequence[int],
        generated_ids: Sequence[int] = (),
        *,
        logprobs: int | None = None,
    ) -> RowState:
        """State of a new (or resumed) row; `logprobs` is request.output.logprobs. Raises invalid_request for ids
        outside the vocabulary in logit_bias and stop_token_ids."""
        raise NotImplementedError

    def remove(self, row: RowState) -> None:
        """Forget a row."""
        raise NotImplementedError

    def sample(self, rows: Sequence[RowState], logits: torch.Tensor) -> SampledBatch:
        """Choose one token per row from `logits` [len(rows), vocab_size] (any float type; may be overwritten) and
        advance the rows (position, penalty counts). Failed rows (NaN, +inf or no finite logit) are not advanced."""
        raise NotImplementedError
