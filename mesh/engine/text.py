"""Token ids to text and back: the tokenizer adapter, the incremental detokenizer and the stop-string matcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Detokenizer(Protocol):
    """Turns a growing sequence of token ids into text, in O(1) amortised per token.

    Text is released as soon as it cannot change any more; incomplete characters are held back.
    """

    def push(self, token_id: int) -> str:
        """The text that this token releases, possibly none."""
        ...

    def flush(self) -> str:
        """The text still held back, incomplete characters as U+FFFD. Ends the sequence."""
        ...


class Codec(Protocol):
    """What the engines need of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True, param: str = "prompt") -> list[int]:
        """Token ids of a text. Raises invalid_request naming `param` for text that is not valid Unicode."""
        ...

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """Text of token ids; ids outside the vocabulary have no text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, which need not be valid UTF-8."""
        ...

    def detokenizer(self, *, keep_special_tokens: bool = False, context: Sequence[int] = ()) -> Detokenizer:
        """A detokenizer of a text that follows the tokens of `context`; empty for a text of its own."""
        ...


class Tokenizer:
    """A Codec over a Hugging Face tokenizer (skeleton, being filled)."""

    hf: Any  # PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    special_ids: frozenset[int]

    def __init__(self, hf: Any, eos_token_ids: Sequence[int] = ()) -> None:
        raise NotImplementedError

    def encode(self, text: str, *, add_special_tokens: bool = True, param: str = "prompt") -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        raise NotImplementedError

    def token_bytes(self, token_id: int) -> bytes:
        raise NotImplementedError

    def detokenizer(self, *, keep_special_tokens: bool = False, context: Sequence[int] = ()) -> Detokenizer:
        raise NotImplementedError
