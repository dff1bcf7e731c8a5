"""Weights to begin with: a pair of attention heads that copies, planted among random weights.

A model learns to copy what it has never seen (a name, a value) by two heads in turn: one passes to each token
the token before it, the next one finds where the present token occurred before and takes what followed there. From
random weights these form late, after more tokens than this recipe has; planted, training only has to make them
good. The idea is that of mimetic initialisation (A. Trockman, J. Z. Kolter, 2023): begin where trained models end.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaForCausalLM

_CONSTANT = 0.3
"""What every embedding has in its first place: a head that looks at positions alone needs something to hold on to."""

_LOUDER = 3.0
"""Embeddings begin this many times as large as usual, so that the random layers do not drown what is passed on."""

_TURNING = 8
_STILL = 16
"""Pairs of a head's places that turn fast with the position, and those that hardly do (of 32, from the 16th on)."""


@torch.no_grad()
def plant(model: LlamaForCausalLM, seed: int) -> None:
    """Plant the two heads in the first two layers: the first query head of each, with its key-value head."""
    generator = torch.Generator().manual_seed(seed)
    width, size = model.config.hidden_size, model.config.head_dim or 64
    content = torch.nn.init.orthogonal_(torch.empty(size, width), generator=generator)
    passed = torch.nn.init.orthogonal_(torch.empty(width, size), generator=generator)
    content[:, 0] = 0.0
    passed[0] = 0.0
    decoder: Any = model.model  # a module's attributes have no declared types
    decoder.embed_tokens.weight.mul_(_LOUDER)
    decoder.embed_tokens.weight[:, 0] = _CONSTANT
    fast = decoder.rotary_emb.inv_freq[:_TURNING].to(torch.float32)
    _look_back(decoder.layers[0].self_attn, fast, content, passed)
    _look_up(decoder.layers[1].self_attn, content, passed)


def _look_back(head: Any, turn: torch.Tensor, content: torch.Tensor, passed: torch.Tensor) -> None:
    """The first layer's head: attend to the token before, and add its content to the residual stream.

    The query is the same at all positions; the key is the query turned by one position, so that their product is
    largest where the rotary embedding makes up for that turn: one position back.
    """
    size = len(content)
    half = size // 2
    head.q_proj.weight[:size] = 0.0
    head.k_proj.weight[:size] = 0.0
    head.q_proj.weight[:_TURNING, 0] = 1.5
    head.k_proj.weight[:_TURNING, 0] = 1.5 * torch.cos(turn)
    head.k_proj.weight[half : half + _TURNING, 0] = 1.5 * torch.sin(turn)
    head.v_proj.weight[:size] = content
    head.o_proj.weight[:, :size] = 0.15 * passed


def _look_up(head: Any, content: torch.Tensor, passed: torch.Tensor) -> None:
    """The second layer's head: attend where the content passed on is that of the present token, and copy from there.

    Only places that hardly turn are compared, for the distance is not to matter.
    """
    size = len(content)
    half = size // 2
    still = [*range(half - _STILL, half), *range(size - _STILL, size)]
    head.q_proj.weight[:size] = 0.0
    head.k_proj.weight[:size] = 0.0
    head.q_proj.weight[still] = 2.5 * content[still]
    head.k_proj.weight[still] = 2.5 * passed.T[still]
    head.v_proj.weight[:size] = content
    head.o_proj.weight[:, :size] = 1.0 * content.T
