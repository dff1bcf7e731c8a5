"""Which tokens may be drawn, and the draw itself: pure functions on a batch of weights, a row never seeing another.

Weights are unnormalised probabilities relative to the row's most likely token, which has weight 1. Every filter keeps
the tokens from some weight upwards, so that tokens of equal weight stay or go together: which of them a sort would
have put first is no property of the distribution. Nothing here sorts a vocabulary: torch.sort of 32 rows of 152k takes
0.5 s on one core, the paths below some milliseconds.
"""

from __future__ import annotations

from typing import Final

import torch

# A candidate list of this width settles top_p for any but flat distributions.
_CANDIDATES: Final = 256
# Beyond it torch.topk loses to bisection.
_MOST_CANDIDATES: Final = 1024
_BLOCK: Final = 512
_BITS_OF_ONE: Final = 0x3F800000


def padded_width(vocab_size: int) -> int:
    """The width that `draw` wants: a whole number of blocks."""
    return -(-vocab_size // _BLOCK) * _BLOCK


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Token ids [B] int64 by inverse CDF over the ids in their order, one uniform number per row.

    `weights` is [B, padded_width] float32, zero where forbidden; `uniforms` is [B] float64 in [0, 1). The CDF is taken
    in two levels, blocks first: one pass over the weights, and nothing of the size of the vocabulary written. Sums run
    in float64 over the blocks and within the block of the draw: a float32 CDF of 152k tokens would lose the tail.
    Rows without weight or with NaN give some place in range.
    """
    blocks = weights.view(weights.shape[0], -1, _BLOCK)
    cdf = blocks.sum(-1).double().cumsum(-1)
    total = cdf[:, -1]
    # Rounding must not reach the end of the CDF, beyond which there is no token.
    goal = torch.minimum(uniforms * total, _below(total))
    block = (cdf <= goal[:, None]).sum(-1).clamp_(max=cdf.shape[1] - 1)
    rows = torch.arange(weights.shape[0], device=weights.device)
    before = torch.where(block > 0, cdf[rows, (block - 1).clamp_(min=0)], 0.0)
    inner = blocks[rows, block].double().cumsum(-1)
    rest = torch.minimum(goal - before, _below(inner[:, -1]))
    return block * _BLOCK + (inner <= rest[:, None]).sum(-1).clamp_(max=_BLOCK - 1)


def _below(values: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(values, torch.zeros_like(values))


def keep_min_p(weights: torch.Tensor, min_p: torch.Tensor) -> None:
    """Zero the tokens less likely than `min_p` [B] times the most likely one; in place."""
    weights.masked_fill_(weights < min_p[:, None].to(weights.dtype), 0.0)


def keep_top(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> None:
    """Zero all but the `top_k` [B] int64 (CPU) likeliest tokens, then all but the mass `top_p` [B] float64 of these.

    In place. 0 and 1 keep all. The set that top_p keeps is the smallest one whose mass reaches it.
    """
    width = weights.shape[1]
    narrow = [k for k in _integers(top_k) if 0 < k <= _MOST_CANDIDATES]
    candidates = weights.topk(min(width, max([_CANDIDATES, *narrow]))).values
    if bool((top_k > 0).any()):
        threshold = _top_k_threshold(weights, candidates, top_k)
        weights.masked_fill_(weights < threshold[:, None], 0.0)
        candidates = torch.where(candidates < threshold[:, None], 0.0, candidates)
    top_p = top_p.to(weights.device)
    goal = top_p * weights.sum(-1, dtype=torch.float64)
    short = candidates.double().cumsum(-1) < goal[:, None]
    needed = short.sum(-1)
    threshold = candidates.gather(1, needed.clamp(max=candidates.shape[1] - 1)[:, None])[:, 0]
    threshold = torch.where(top_p < 1.0, threshold, 0.0)
    # A flat distribution needs more tokens than there are candidates: its rows are settled one by one.
    for row in _integers(((needed >= candidates.shape[1]) & (top_p < 1.0)).nonzero()[:, 0]):
        threshold[row] = _mass_threshold(weights[row], weights[row], float(goal[row]))
    weights.masked_fill_(weights < threshold[:, None], 0.0)


def _integers(values: torch.Tensor) -> list[int]:
    numbers: list[int] = values.tolist()
    return numbers


def _top_k_threshold(weights: torch.Tensor, candidates: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    width, listed = weights.shape[1], candidates.shape[1]
    place = torch.where(top_k > 0, top_k, listed).clamp(max=listed) - 1
    threshold = candidates.gather(1, place[:, None].to(weights.device))[:, 0]
    threshold = torch.where((top_k > 0).to(weights.device), threshold, 0.0)
    for row, k in enumerate(_integers(top_k)):
        if k >= width:
            threshold[row] = 0.0
        elif k > listed:
            threshold[row] = _mass_threshold(weights[row], torch.ones_like(weights[row]), float(k))
    return threshold


def keep_typical(weights: torch.Tensor, typical_p: float) -> None:
    """Keep the tokens of one row [V] whose surprise is closest to the entropy, up to the mass `typical_p`; in place.

    Meister et al., Locally Typical Sampling, 2022.
    """
    log_p = (weights / weights.sum()).log()
    entropy = -torch.nansum(log_p.exp() * log_p)
    distance = (-log_p - entropy).abs()
    goal = typical_p * float(weights.sum(dtype=torch.float64))
    last = _smallest_key(distance.view(torch.int32), weights, goal)
    weights.masked_fill_(distance.view(torch.int32) > last, 0.0)


def _mass_threshold(weights: torch.Tensor, masses: torch.Tensor, goal: float) -> torch.Tensor:
    """The largest weight such that the tokens [V] from it upwards have the mass `goal`."""
    key = _smallest_key(_BITS_OF_ONE - weights.view(torch.int32), masses, goal)
    return torch.tensor(_BITS_OF_ONE - key, dtype=torch.int32, device=weights.device).view(torch.float32)


def _smallest_key(keys: torch.Tensor, masses: torch.Tensor, goal: float) -> int:
    """The smallest key such that the entries [V] up to it have the mass `goal`, else the largest key.

    Bisection on the bits of non-negative floats, which are ordered like the floats; each round drops the entries that
    are settled, so that all rounds together cost a few passes.
    """
    low, high = int(keys.min()), int(keys.max())
    settled = 0.0
    while low < high:
        middle = (low + high) // 2
        below = keys <= middle
        mass = settled + float(masses[below].sum(dtype=torch.float64))
        if mass >= goal:
            high = middle
        else:
            settled, low, below = mass, middle + 1, ~below
        keys, masses = keys[below], masses[below]
    return high
