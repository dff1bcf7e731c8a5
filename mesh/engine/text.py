"""Token ids to text and back: the tokenizer adapter, the incremental detokenizers and the stop-string matcher."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from mesh.errors import invalid

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedTokenizerBase

MAX_STOP_STRINGS: Final = 64
MAX_STOP_LENGTH: Final = 1024


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

    def detokenizer(
        self,
        *,
        keep_special_tokens: bool = False,
        kept_tokens: Collection[str] = (),
        context: Sequence[int] = (),
    ) -> Detokenizer:
        """A detokenizer of a text that follows the tokens of `context`; empty for a text of its own. Special tokens
        have no text, but for `kept_tokens`, or all with `keep_special_tokens`.

        It matters to tokenizers that write a word as space + word and drop the first space of a text.
        """
        ...


def check_text(text: str, param: str) -> None:
    """Refuse lone surrogates: JSON can carry them, but no tokenizer and no UTF-8 channel can."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise invalid(
            param, f"'{param}' is not valid Unicode: a lone surrogate ({code}) at character {error.start}"
        ) from None


class ByteDetokenizer:
    """For tokenizers whose text is the UTF-8 decoding of their tokens' bytes, one after the other."""

    __slots__ = ("_bytes_of", "_decode", "_skip", "_strip")

    def __init__(self, bytes_of: Callable[[int], bytes], skip: frozenset[int] = frozenset(), strip: int = 0) -> None:
        """`skip` are ids without text; `strip` is how many spaces the beginning of the text loses."""
        self._bytes_of = bytes_of
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._skip = skip
        self._strip = strip

    def push(self, token_id: int) -> str:
        """See Detokenizer."""
        if token_id in self._skip:
            return ""
        text = self._decode(self._bytes_of(token_id))
        return self._stripped(text) if self._strip and text else text

    def flush(self) -> str:
        """See Detokenizer."""
        return self._decode(b"", True)

    def _stripped(self, text: str) -> str:
        rest = text.lstrip(" ")
        lost = min(len(text) - len(rest), self._strip)
        self._strip = 0 if rest else self._strip - lost
        return text[lost:]


class WindowDetokenizer:
    """For any other tokenizer: decodes a short window again with each token and releases what was added.

    It relies on the text of a token depending on the token before it at most. Text that ends in U+FFFD is held back as
    an incomplete character, for so many tokens as a character can have bytes.
    """

    __slots__ = ("_decode", "_held", "_ids", "_known")

    _LONGEST_CHARACTER = 4
    _CONTEXT = 4

    def __init__(self, decode: Callable[[list[int]], str], context: Sequence[int] = ()) -> None:
        """`decode` is the whole decoding of a list of ids."""
        self._decode = decode
        self._ids = list(context[-self._CONTEXT :])
        self._known = decode(self._ids) if self._ids else ""
        self._held = 0

    def push(self, token_id: int) -> str:
        """See Detokenizer."""
        self._ids.append(token_id)
        self._held += 1
        text = self._decode(self._ids)
        if text.endswith("\ufffd") and self._held < self._LONGEST_CHARACTER:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """See Detokenizer."""
        return self._release(self._decode(self._ids)) if self._held else ""

    def _release(self, text: str) -> str:
        fresh = text[len(self._known) :]
        if fresh:
            # The tokens just released are the context of the next ones.
            self._ids = self._ids[-max(self._held, 1) :]
            self._known = self._decode(self._ids)
        elif len(self._ids) > 4 * self._CONTEXT:
            # A long run of tokens without text must not make the window grow.
            self._ids = self._ids[: self._CONTEXT]
        self._held = 0
        return fresh


class _ByteRules:
    """How a tokenizer's tokens are bytes: `bytes_of` with its cache, and the rule for the beginning of a text."""

    def __init__(self, token_of: Callable[[int], str | None], convert: Callable[[str], bytes], strip: int) -> None:
        self._token_of = token_of
        self._convert = convert
        self._cache: dict[int, bytes] = {}
        self.strip = strip

    def bytes_of(self, token_id: int) -> bytes:
        found = self._cache.get(token_id)
        if found is None:
            token = self._token_of(token_id) if token_id >= 0 else None
            found = b"" if token is None else self._convert(token)
            self._cache[token_id] = found
        return found


class Tokenizer:
    """A Codec over a Hugging Face tokenizer.

    Text is exact and reversible: no clean-up of spaces before punctuation. Fast tokenizers of the two families that
    nearly all language models use (byte-level BPE, sentencepiece with byte fallback) are decoded from a table of token
    bytes. In the second family one byte that is no valid UTF-8 costs one U+FFFD here, and the whole run of byte tokens
    around it in Hugging Face's decoder: ours can be streamed.
    """

    def __init__(self, hf: PreTrainedTokenizerBase, eos_token_ids: Sequence[int] = ()) -> None:
        """`eos_token_ids` are the tokens that end the model's turn."""
        self.hf: Any = hf
        self.eos_token_ids = tuple(eos_token_ids)
        self.special_ids = _special_ids(self.hf)
        self.vocab_size = len(self.hf)
        self._backend: Any = getattr(hf, "backend_tokenizer", None)
        if self._backend is not None:
            # A tokenizer file may ask for truncation; calls of Hugging Face's wrapper change it under our feet.
            self._backend.no_truncation()
            self._backend.no_padding()
        self._rules = _byte_rules(self._backend) if self._backend is not None else None

    @property
    def has_bytes(self) -> bool:
        """Whether the text of tokens is that of their bytes, one after the other."""
        return self._rules is not None

    def encode(self, text: str, *, add_special_tokens: bool = True, param: str = "prompt") -> list[int]:
        """See Codec."""
        check_text(text, param)
        if self._backend is not None:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return list(self.hf.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Codec."""
        if self._rules is None:
            return self._whole(ids, frozenset() if keep_special_tokens else self.special_ids)
        detokenizer = self.detokenizer(keep_special_tokens=keep_special_tokens)
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

    def token_bytes(self, token_id: int) -> bytes:
        """See Codec."""
        if self._rules is not None:
            return self._rules.bytes_of(token_id)
        return self._whole([token_id], frozenset()).encode()

    def detokenizer(
        self,
        *,
        keep_special_tokens: bool = False,
        kept_tokens: Collection[str] = (),
        context: Sequence[int] = (),
    ) -> Detokenizer:
        """See Codec."""
        continues = any(token_id not in self.special_ids for token_id in reversed(context))
        skip = frozenset[int]() if keep_special_tokens else self._skipped(kept_tokens)
        if self._rules is not None:
            return ByteDetokenizer(self._rules.bytes_of, skip, 0 if continues else self._rules.strip)
        return WindowDetokenizer(lambda ids: self._whole(ids, skip), context if continues else ())

    def special_id(self, text: str) -> int | None:
        """The special token of this text, if there is one."""
        token_id: int | None = self.hf.convert_tokens_to_ids(text)
        return token_id if token_id in self.special_ids else None

    def vocabulary(self, size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
        """See GrammarTokenizer."""
        from llguidance import LLTokenizer

        return LLTokenizer(self._backend.to_str(), n_vocab=size, eos_token=list(eos_token_ids))

    def _skipped(self, kept_tokens: Collection[str]) -> frozenset[int]:
        """The special tokens but for these."""
        if not kept_tokens:
            return self.special_ids
        return frozenset(
            token_id for token_id in self.special_ids if self.hf.convert_ids_to_tokens(token_id) not in kept_tokens
        )

    def _whole(self, ids: Sequence[int], skip: frozenset[int]) -> str:
        known = [token_id for token_id in ids if 0 <= token_id < self.vocab_size and token_id not in skip]
        return self.hf.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _special_ids(hf: Any) -> frozenset[int]:
    added = {token_id for token_id, token in hf.added_tokens_decoder.items() if token.special}
    return frozenset(added.union(hf.all_special_ids))


def _byte_rules(backend: Any) -> _ByteRules | None:
    """The byte rules of a fast tokenizer's decoder, or None if it follows others."""
    decoder = backend.decoder
    if decoder is None:
        return None
    try:
        state: dict[str, Any] = json.loads(decoder.__getstate__())
    except (TypeError, ValueError):  # a decoder written in Python
        return None
    steps: list[dict[str, Any]] = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [step["type"] for step in steps]
    if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
        return _ByteRules(backend.id_to_token, _byte_level_bytes, strip=0)
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"]:
        return _byte_fallback_rules(backend, steps[0], steps[3:])
    return None


def _byte_fallback_rules(backend: Any, replace: dict[str, Any], rest: list[dict[str, Any]]) -> _ByteRules | None:
    pattern = replace["pattern"].get("String")
    strips = all(step["type"] == "Strip" and step["content"] == " " and step["stop"] == 0 for step in rest)
    if pattern is None or not strips:
        return None
    content: str = replace["content"]

    def convert(token: str) -> bytes:
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes.fromhex(token[3:5])
            except ValueError:
                pass
        return token.replace(pattern, content).encode()

    return _ByteRules(backend.id_to_token, convert, strip=sum(step["start"] for step in rest))


def _printable_bytes() -> dict[str, int]:
    """The alphabet of byte-level BPE: each byte has one printable character."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF: Final = _printable_bytes()


def _byte_level_bytes(token: str) -> bytes:
    """Bytes of a byte-level token. An added token may hold characters outside the alphabet: it stands for itself."""
    try:
        return bytes([BYTE_OF[char] for char in token])
    except KeyError:
        return token.encode()


class StopStrings:
    """Compiled stop strings, shared by the choices of a request. Raises invalid_request beyond the limits, which count
    the request's own `texts` alone."""

    __slots__ = ("first", "patterns", "tables")

    def __init__(self, texts: Sequence[str], template_texts: Sequence[str] = ()) -> None:
        if len(texts) > MAX_STOP_STRINGS:
            raise invalid("stop", f"'stop' must hold at most {MAX_STOP_STRINGS} texts, not {len(texts)}")
        for text in texts:
            if not 1 <= len(text) <= MAX_STOP_LENGTH:
                raise invalid(
                    "stop", f"each text of 'stop' must have 1 to {MAX_STOP_LENGTH} characters, not {len(text)}"
                )
            check_text(text, "stop")
        self.patterns = tuple(dict.fromkeys((*texts, *template_texts)))
        self.tables = tuple(_failure_table(text) for text in self.patterns)
        self.first = frozenset(text[0] for text in self.patterns)


def _failure_table(pattern: str) -> list[int]:
    """For each position: length of the longest proper prefix of the pattern that ends there (Knuth, Morris, Pratt)."""
    table = [0] * len(pattern)
    length = 0
    for index in range(1, len(pattern)):
        while length and pattern[index] != pattern[length]:
            length = table[length - 1]
        if pattern[index] == pattern[length]:
            length += 1
        table[index] = length
    return table


class StopMatcher:
    """Finds the first stop string to be complete in a growing text, the longest one if several end together.

    That makes the result independent of how the text is cut into pieces. Only what may be the beginning of a stop
    string is held back. Work per character is a constant per stop string, and next to nothing in text that holds no
    first character of one.
    """

    __slots__ = ("_held", "_states", "_stops", "matched")

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        self._states = [0] * len(stops.patterns)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text released: all that cannot belong to a match or, once `matched` is set, the text before it."""
        if not self._held and self._stops.first.isdisjoint(text):
            return text
        held = len(self._held)
        text = self._held + text
        for index in range(held, len(text)):
            if matched := self._step(text[index]):
                self.matched = matched
                self._held = ""
                return text[: index + 1 - len(matched)]
        keep = len(text) - max(self._states)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """The text still held back, once no more is to come."""
        held, self._held = self._held, ""
        return held

    def _step(self, char: str) -> str | None:
        """Move each automaton by one character; the longest pattern that is now complete."""
        found: str | None = None
        states = self._states
        for which, pattern in enumerate(self._stops.patterns):
            length = states[which]
            if length or pattern[0] == char:
                table = self._stops.tables[which]
                while length and pattern[length] != char:
                    length = table[length - 1]
                if pattern[length] == char:
                    length += 1
                states[which] = length
                if length == len(pattern) and (found is None or length > len(found)):
                    found = pattern
        return found
