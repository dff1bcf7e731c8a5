"""The scripted engine's tokenizer in Hugging Face's format, for programs that make tokens and texts by themselves.

It gives the same ids as ScriptCodec, but that special tokens in a text are special tokens.
"""

from __future__ import annotations

import json
from typing import Any, Final

from mesh.engine.script import BEGIN, END, PIECES, ROLES, SPECIALS, VOCAB_SIZE, WORDS
from mesh.engine.text import BYTE_OF

# As ScriptCodec renders a conversation without tools.
_TEMPLATE: Final = """\
{%- if tools %}{{ raise_exception("the scripted engine's template takes no tools") }}{% endif -%}
{%- set roles = ROLES -%}
<|begin|>
{%- for message in messages -%}
{{ roles[message.role] + message.content + "<|end|>" }}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}
"""


def tokenizer_files() -> dict[str, bytes]:
    """See Engine.tokenizer_files."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS[BEGIN - 256],
        "eos_token": SPECIALS[END - 256],
        "clean_up_tokenization_spaces": False,
    }
    roles = {role: SPECIALS[token_id - 256] for role, token_id in ROLES.items()}
    return {
        "tokenizer.json": json.dumps(_tokenizer()).encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "chat_template.jinja": _TEMPLATE.replace("ROLES", json.dumps(roles)).encode(),
    }


def _tokenizer() -> dict[str, Any]:
    """Byte-level BPE without merges, in which a piece of text that is a token is taken whole."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PIECES.pattern}, "behavior": "Isolated", "invert": False}
    begin = SPECIALS[BEGIN - 256]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(256 + place, text) for place, text in enumerate(SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {begin: {"id": begin, "ids": [BEGIN], "tokens": [begin]}},
        },
        # An answer of its own loses the space before its first word.
        "decoder": {
            "type": "Sequence",
            "decoders": [byte_level, {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": _vocabulary(),
            "merges": [],
        },
    }


def _vocabulary() -> dict[str, int]:
    char_of = {byte: char for char, byte in BYTE_OF.items()}
    first_word = VOCAB_SIZE - len(WORDS)
    tokens = {char_of[byte]: byte for byte in range(256)}
    tokens |= {text: 256 + place for place, text in enumerate(SPECIALS)}
    return tokens | {f"{char_of[ord(' ')]}{word}": first_word + place for place, word in enumerate(WORDS)}


def _added(token_id: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": text, **flags, "special": True}
