"""Models with random weights, written as a Hugging Face folder: the shape decides the speed, not the weights."""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_END = "<|end|>"
_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's dimensions."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool = False

    def cached(self, tokens: int) -> int:
        """Bytes of float32 keys and values of so many tokens."""
        return tokens * 4 * 2 * self.layers * self.kv_heads * self.hidden // self.heads

    def read_per_step(self, parameters: int) -> int:
        """Bytes of float32 weights that a decode step reads: all but an embedding table of which it takes few rows."""
        return 4 * (parameters if self.tied else parameters - self.hidden * self.vocabulary)


# 131.7M parameters, of which a decode step reads 107M.
S = Shape(hidden=768, layers=12, heads=12, kv_heads=4, feed_forward=2304, vocabulary=32_000)
# Qwen2.5-0.5B's dimensions: 494M parameters, all of which a decode step reads.
HALF = Shape(hidden=896, layers=24, heads=14, kv_heads=2, feed_forward=4_864, vocabulary=151_936, tied=True)
# Llama 3 8B: 8.03G parameters, of which a decode step reads 7.5G.
LARGE = Shape(hidden=4096, layers=32, heads=32, kv_heads=8, feed_forward=14_336, vocabulary=128_256)
# For the smoke test: nothing about speed can be learnt from it but the cost of the code around the model.
SMALL = Shape(hidden=64, layers=2, heads=2, kv_heads=1, feed_forward=128, vocabulary=2_048)
SHAPES = {"132m": S, "0.5b": HALF, "tiny": SMALL}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs, in which number format, as torch calls them."""

    device: str = "cpu"
    dtype: str = "float32"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format itself."""
        return getattr(torch, self.dtype)


CPU = Place()


def write(folder: Path, shape: Shape, *, context: int, seed: int, place: Place = CPU) -> int:
    """Write config, weights and tokenizer into `folder`; returns the number of parameters."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(place.torch_dtype)
    try:
        with torch.device(place.device):
            model = LlamaForCausalLM(_config(shape, context))
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    _tokenizer(shape.vocabulary).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def load(folder: Path, place: Place = CPU) -> Any:
    """The model with transformers' default attention, ready for inference."""
    where: dict[str, Any] = {} if place.device == "cpu" else {"device_map": {"": place.device}}
    return LlamaForCausalLM.from_pretrained(folder, dtype=place.torch_dtype, **where).eval()


def prompts(count: int, length: int, vocabulary: int, *, seed: int) -> list[list[int]]:
    """Random prompts: no two share a prefix, so that no engine's prefix cache can help it."""
    generator = torch.Generator().manual_seed(seed)
    # Ids from 512 on: neither the end token nor lone bytes.
    drawn = torch.randint(512, vocabulary, (count, length), generator=generator)
    return cast("list[list[int]]", drawn.tolist())


def _config(shape: Shape, context: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        intermediate_size=shape.feed_forward,
        vocab_size=shape.vocabulary,
        max_position_embeddings=context,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of exactly `size` entries: the end token, all bytes, then words of two and three letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = string.ascii_letters + string.digits
    pairs = [(a, b) for a, b in product(letters, letters)]
    triples = [(a + b, c) for a, b, c in product(letters, letters, letters)]
    merges = list(islice([*pairs, *triples], size - 1 - len(alphabet)))
    words = [_END, *alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(BPE(vocab={word: index for index, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, pad_token=_END)
    wrapped.chat_template = _TEMPLATE
    return wrapped
