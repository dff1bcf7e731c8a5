"""Which tokens may be drawn, and the draw itself: pure functions on a batch of weights, a row never seeing another.

Weights [B, padded_width] float32 are unnormalised probabilities relative to the row's most likely token, which has
weight 1; forbidden tokens and the padding at the end of a row have weight 0. Every filter keeps the tokens from some
weight upwards, so that tokens of equal weight stay or go together: which of them a sort would have put first is no
property of the distribution.

Cost, 32 rows of 152k tokens on one core: torch.sort 506 ms and torch.topk(1024) 25 ms, because both carry indices;
numpy's partition of the values alone 4 ms and its sort 21 ms. Thresholds need no indices.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import torch

# So many of the likeliest tokens settle top_p for any but flat distributions.
_CANDIDATES: Final = 1024
_BLOCK: Final = 512


def padded_width(vocab_size: int) -> int:
    """The width of weights: a whole number of blocks."""
    return -(-vocab_size // _BLOCK) * _BLOCK


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Token ids [B] int64 by inverse CDF over the ids in their order, one uniform number per row.

    `uniforms` is [B] float64 in [0, 1). The CDF is taken in two levels, blocks first: one pass over the weights, and
    nothing of the size of the vocabulary written. It is float64 over the blocks and within the block of the draw: a
    float32 CDF of 152k tokens would lose the tail.
    Rows without weight or with NaN give some place in range.
    """
    blocks = weights.view(weights.shape[0], -1, _BLOCK)
    cdf = _block_sums(weights).cumsum(-1)
    goal = uniforms * cdf[:, -1]
    block = (cdf <= goal[:, None]).sum(-1).clamp_(max=cdf.shape[1] - 1)
    rows = torch.arange(weights.shape[0], device=weights.device)
    before = torch.where(block > 0, cdf[rows, (block - 1).clamp_(min=0)], 0.0)
    inner = blocks[rows, block].double().cumsum(-1)
    # Sums of a block in float32 and float64 differ a little: beyond the end of the second there is no token.
    last = torch.nextafter(inner[:, -1], torch.zeros_like(goal))
    rest = torch.minimum(goal - before, last)
    return block * _BLOCK + (inner <= rest[:, None]).sum(-1).clamp_(max=_BLOCK - 1)


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """Sums of each block [B, blocks] float64; float32 within a block, where it is accurate enough and much faster."""
    return weights.view(weights.shape[0], -1, _BLOCK).sum(-1).double()


def keep_min_p(weights: torch.Tensor, min_p: torch.Tensor) -> None:
    """Zero the tokens less likely than `min_p` [B] times the most likely one; in place."""
    weights.masked_fill_(weights < min_p[:, None].to(weights.dtype), 0.0)


def keep_top(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> None:
    """Zero all but the `top_k` [B] int64 likeliest tokens, then all but the mass `top_p` [B] float64 of these.

    Both on the CPU; 0 and 1 keep all. The set that top_p keeps is the smallest one whose mass reaches it. In place.
    """
    width = weights.shape[1]
    ks = [k if 0 < k < width else 0 for k in cast(list[int], top_k.tolist())]
    candidates = _largest(weights, min(width, max(_CANDIDATES, *ks)))
    if any(ks):
        place = torch.tensor(ks, device=weights.device)[:, None]
        threshold = torch.where(place > 0, candidates.gather(1, (place - 1).clamp(min=0)), 0.0)
        weights.masked_fill_(weights < threshold, 0.0)
        candidates = candidates.masked_fill(candidates < threshold, 0.0)
    goal = (top_p.to(weights.device) * _block_sums(weights).sum(-1))[:, None]
    threshold, reached = _mass_threshold(candidates, goal)
    wanted = top_p < 1.0
    # A flat distribution needs more tokens than there are candidates.
    flat = (~reached.cpu() & wanted).nonzero()[:, 0].to(weights.device)
    if len(flat):
        threshold[flat] = _mass_threshold(_largest(weights[flat], width), goal[flat])[0]
    threshold = torch.where(wanted[:, None].to(weights.device), threshold, 0.0)
    weights.masked_fill_(weights < threshold, 0.0)


def _largest(weights: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` largest weights of each row [B, count], falling."""
    if weights.device.type != "cpu":
        return weights.topk(count).values
    place = weights.shape[1] - count
    values = np.partition(weights.numpy(), place, axis=-1)[:, place:] if place else weights.numpy()
    return torch.from_numpy(np.sort(values, axis=-1)[:, ::-1].copy())


def _mass_threshold(falling: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight [B, 1] at which the sum of falling weights [B, N] reaches `goal` [B, 1], and whether it does [B]."""
    short = (falling.cumsum(-1, dtype=torch.float64) < goal).sum(-1, keepdim=True)
    last = falling.shape[1] - 1
    return falling.gather(1, short.clamp(max=last)), short[:, 0] <= last


def keep_typical(weights: torch.Tensor, typical_p: float) -> None:
    """Keep the tokens of one row [V] whose surprise is closest to the entropy, up to the mass `typical_p`; in place.

    Meister et al., Locally Typical Sampling, 2022. The one filter that needs an order with indices.
    """
    log_p = (weights / weights.sum()).log()
    entropy = -torch.nansum(log_p.exp() * log_p)
    distance = (-log_p - entropy).abs()
    rising, order = distance.sort()
    goal = typical_p * weights.sum(dtype=torch.float64)
    short = (weights[order].cumsum(0, dtype=torch.float64) < goal).sum()
    weights.masked_fill_(distance > rising[short.clamp(max=len(rising) - 1)], 0.0)
