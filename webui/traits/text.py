"""Text in pieces: a measure of length that is the same for all models, whatever their tokenizers."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

# A word, a character of a script that is written without spaces, or a mark. Near to what tokenizers make of text,
# without belonging to one of the models that are compared.
_PIECE: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+|[^\w\s]")
_FENCE: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_NOISE: Final = re.compile(r"[\W_]+")


def pieces(text: str) -> int:
    """How long a text is, in words, marks and ideographs."""
    return sum(1 for _ in _PIECE.finditer(text))


def without_code(text: str) -> str:
    """The text without its fenced blocks of code."""
    return _FENCE.sub("\n", text)


def has_fence(text: str) -> bool:
    """Whether there is a fenced block of code."""
    return "```" in text


def exact_hash(text: str) -> str:
    """Equal for equal texts alone: 32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def normal_hash(text: str) -> str:
    """Equal for texts that differ in case, spaces, marks and forms of characters alone."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return exact_hash(_NOISE.sub(" ", folded).strip() or folded)
