"""Grammars that an answer must satisfy: compiled once, then asked at each token what may come next.

The work is done by llguidance: an Earley parser over derivatives of regular expressions, walked along a trie of the
vocabulary. A mask costs tens of microseconds, and nothing is precomputed per grammar and token, so that a new schema
is ready in about a millisecond.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from mesh.engine.base import Constraint
from mesh.engine.text import Tokenizer
from mesh.errors import ErrorKind, MeshError, invalid, unsupported

MAX_CHARACTERS: Final = 256 * 1024
MAX_TEXTS: Final = 4096
_CACHED: Final = 64

# A space, or a new line with its indentation. JSON allows whitespace without end, and models that are held to JSON but
# have nothing to say are known to write it until they are stopped.
_WHITESPACE: Final = r" |\r?\n( {0,32}|\t{0,8})"

# All rows wait for the slowest mask, so that ambiguity, which makes an Earley parser slow, is cut off at a quarter of
# llguidance's own limit. A lexer's state takes 1 to 2 kB: 64 MB per row at worst. The limits left at their defaults
# are about 20 ms to compile, 14 ms for a mask, 500 000 symbols.
_LIMITS: Final = LLParserLimits(max_items_in_row=500, max_lexer_states=32_000, verbose_errors=False)


class Matcher:
    """How far one completion has come in its grammar. Belongs to one thread at a time."""

    __slots__ = ("state",)

    def __init__(self, state: LLMatcher) -> None:
        self.state = state

    def accept(self, token_id: int) -> bool:
        """Go on by one token; False when the grammar does not allow it, or has become too complex. It stays so."""
        return self.state.consume_token(token_id)

    def replay(self, token_ids: Sequence[int]) -> bool:
        """Go on by the tokens of an earlier attempt; False if the grammar does not allow them."""
        return self.state.consume_tokens(list(token_ids))

    @property
    def error(self) -> MeshError:
        """What to say after `accept` has returned False."""
        reason = _sentence(self.state.get_error())
        return MeshError(ErrorKind.ENGINE_FAILED, f"the constraint could not be followed any further: {reason}")


class Grammars:
    """The compiled grammars of one tokenizer. Any thread may compile; the work releases Python's lock."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """`vocab_size` is the width of the logits. A grammar that is complete allows `eos_token_ids`, at least one."""
        self._tokenizer = tokenizer
        # A model may have fewer logits than its tokenizer has tokens; those that it cannot say are cut off the masks.
        self._vocab_size = max(vocab_size, tokenizer.vocab_size)
        self._eos = list(eos_token_ids)
        self._vocabulary: LLTokenizer | None = None
        self._building = threading.Lock()
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._looking = threading.Lock()

    def compile(self, constraint: Constraint) -> Matcher:
        """A matcher at the beginning of the grammar.

        Takes milliseconds, and up to a second the first time; microseconds if it was compiled lately. Raises
        invalid_request that names the kind of constraint and says why it cannot be compiled.
        """
        with self._looking:
            known = self._compiled.get(constraint)
            if known is not None:
                self._compiled.move_to_end(constraint)
        if known is None:
            known = _compile(constraint, self._trie())
            with self._looking:
                self._compiled[constraint] = known
                if len(self._compiled) > _CACHED:
                    self._compiled.popitem(last=False)
        return Matcher(known.deep_copy())

    def __len__(self) -> int:
        """How many grammars are kept compiled."""
        return len(self._compiled)

    def _trie(self) -> LLTokenizer:
        with self._building:
            if self._vocabulary is None:
                backend = self._tokenizer.hf.backend_tokenizer
                try:
                    self._vocabulary = LLTokenizer(backend.to_str(), n_vocab=self._vocab_size, eos_token=self._eos)
                except ValueError as error:
                    text = f"'constraint' is not supported by this model's tokenizer: {_sentence(str(error))}"
                    raise unsupported("constraint", text) from None
            return self._vocabulary


def _compile(constraint: Constraint, trie: LLTokenizer) -> LLMatcher:
    grammar = _grammar(constraint)
    matcher = LLMatcher(trie, grammar, log_level=0, limits=_LIMITS)
    # The first mask shows grammars that no text satisfies, and warms the copies' common start.
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        reason = _sentence(matcher.get_error())
        if reason == "NoExtensionBias":
            reason = "no text of this model's tokens satisfies it"
        raise invalid(constraint.kind, f"'{constraint.kind}' cannot be compiled: {reason}")
    return matcher


def _grammar(constraint: Constraint) -> str:
    """The grammar in llguidance's own notation; raises invalid_request for one that is too large."""
    kind, value = constraint.kind, constraint.value
    texts = [value] if isinstance(value, str) else value
    if len(texts) > MAX_TEXTS:
        raise invalid(kind, f"'{kind}' must have at most {MAX_TEXTS} texts, not {len(texts)}")
    if (size := sum(map(len, texts))) > MAX_CHARACTERS:
        raise invalid(kind, f"'{kind}' must have at most {MAX_CHARACTERS} characters, not {size}")
    match kind:
        case "json_object":
            return _json_grammar('{"type": "object"}')
        case "json_schema":
            return _json_grammar(texts[0])
        case "regex":
            # d, w: ASCII, as in a schema's "pattern".
            return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(texts[0], 'dw')}/")
        case "grammar":
            return LLMatcher.grammar_from_lark(texts[0])
        case "choice":
            # Lark's strings are JSON's.
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts)))


def _json_grammar(schema: str) -> str:
    # Defaults, not overrides: a schema's own "x-guidance" goes before.
    try:
        return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": _WHITESPACE})
    except ValueError as error:
        raise invalid("json_schema", f"'json_schema' cannot be compiled: {_sentence(str(error))}") from None


def _sentence(message: str) -> str:
    """llguidance's message without its drawing of the place, in one line."""
    lines = message.replace("<non-verbose/>", "").splitlines()
    text = " ".join(line.strip() for line in lines if line.strip(" ^") and not line.startswith("   1 | "))
    return text if len(text) <= 500 else text[:500] + "…"


class Masks:
    """What the grammars of a batch forbid next. Belongs to the engine's thread."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        """`vocab_size` is the width of the logits."""
        self._vocab_size = vocab_size
        self._bits = np.zeros((0, -(-vocab_size // 32)), np.int32)
        self._powers = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=device)
        self._executor: LLExecutor | None = None

    def forbidden(self, matchers: Sequence[Matcher]) -> torch.Tensor:
        """Which tokens each grammar rules out: [len(matchers), vocab_size] bool on the device.

        A matcher that has broken down allows the end of the turn alone, and will not accept it.
        """
        if self._executor is None:
            self._executor = LLExecutor(torch.get_num_threads())
        size, width = len(matchers), self._bits.shape[1]
        if size > len(self._bits):
            self._bits = np.zeros((size, width), np.int32)
        places = [(matcher.state, place) for place, matcher in enumerate(matchers)]
        # Rows in parallel, without Python's lock. torch's own threads are idle meanwhile.
        self._executor.unsafe_compute_mask_ptr(places, self._bits.ctypes.data, 4 * width, size)
        packed = torch.from_numpy(self._bits[:size].view(np.uint8)).to(self._powers.device)
        allowed = packed.unsqueeze(-1).bitwise_and(self._powers).flatten(1)
        return allowed[:, : self._vocab_size] == 0
