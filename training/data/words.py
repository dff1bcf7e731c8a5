"""Text as words, the same for all tools that compare texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

# Scripts that are written without spaces: each character counts as a word.
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+")


def words(text: str) -> list[str]:
    """The words without case, marks and spaces."""
    return _WORD.findall(text.casefold())


def ngrams(given: Sequence[str], length: int) -> Iterator[str]:
    """All runs of so many words."""
    return (" ".join(given[start : start + length]) for start in range(len(given) - length + 1))


def digest(text: str) -> bytes:
    """16 bytes, equal for equal texts alone."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
