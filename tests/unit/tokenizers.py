"""Small tokenizers of every family that matters to decoding."""

from __future__ import annotations

import functools
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("hello", "world", "he", "llo", "a", "é", "日本", "🙂", "!", "  ", "\n")


def _wrap(backend: Tokenizer, extra: str = "<extra text>") -> PreTrainedTokenizerFast:
    """With special tokens, and one added token that is not special."""
    backend.add_special_tokens(["<s>", "</s>"])
    backend.add_tokens([AddedToken(extra, special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@functools.cache
def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges, as GPT-2, Llama 3 and Qwen have; begins prompts with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: place for place, char in enumerate(alphabet)}
    merges = [("h", "e"), ("l", "l"), ("Ġ", "w"), ("ð", "Ł"), ("Ã", "©"), ("æ", "Ĺ")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    pre_tokenizer: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizer
    decoder: Any = decoders.ByteLevel()
    backend.decoder = decoder
    wrapped = _wrap(backend)
    bos = wrapped.bos_token_id
    assert isinstance(bos, int)
    processor: Any = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    wrapped.backend_tokenizer.post_processor = processor
    return wrapped


def _pieces() -> dict[str, int]:
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [prefix + word.replace(" ", "▁") for word in WORDS for prefix in ("", "▁")]
    return {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}


@functools.cache
def byte_fallback() -> PreTrainedTokenizerFast:
    """Pieces with byte fallback that drop the first space, as Llama 2 and Mistral have."""
    backend = Tokenizer(models.BPE(vocab=_pieces(), merges=[], byte_fallback=True, unk_token="<unk>"))
    steps: list[Any] = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    decoder: Any = decoders.Sequence(steps)
    backend.decoder = decoder
    return _wrap(backend)


@functools.cache
def metaspace() -> PreTrainedTokenizerFast:
    """Pieces without byte fallback, as T5 has."""
    pieces = [(piece, -float(place)) for piece, place in _pieces().items() if not piece.startswith("<0x")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    pre_tokenizer: Any = pre_tokenizers.Metaspace()
    backend.pre_tokenizer = pre_tokenizer
    decoder: Any = decoders.Metaspace()
    backend.decoder = decoder
    return _wrap(backend)


@functools.cache
def word_pieces() -> PreTrainedTokenizerFast:
    """Words and continuations, as BERT has."""
    vocabulary = ["[UNK]", *(prefix + word for word in ("hello", "world", "a", "日本") for prefix in ("", "##"))]
    backend = Tokenizer(models.WordPiece({word: place for place, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    pre_tokenizer: Any = pre_tokenizers.Whitespace()
    backend.pre_tokenizer = pre_tokenizer
    decoder: Any = decoders.WordPiece(cleanup=False)
    backend.decoder = decoder
    return _wrap(backend)


FAMILIES = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "metaspace": metaspace,
    "word pieces": word_pieces,
}
