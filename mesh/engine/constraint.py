"""Grammars that an answer must satisfy: compiled for each choice, then asked at each token what may come next.

The work is done by llguidance: an Earley parser over derivatives of regular expressions, walked along a trie of the
vocabulary. A mask costs tens of microseconds, and nothing is precomputed per grammar and token, so that a new schema
is ready in about a millisecond, a large one within a tenth of a second.

Nothing compiled is shared: llguidance's copies of a matcher have one lexer with one budget between them, which any of
them can exhaust for all.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from mesh.dialects import Dialect
from mesh.engine.base import Chat, Constraint
from mesh.engine.calls import MarkedTokenizer, after_reasoning, call_constraint
from mesh.errors import MeshError, invalid, unsupported

MAX_CHARACTERS: Final = 128 * 1024
# A regular expression of 128 Ki characters was seen to compile for seconds and to take a gigabyte.
MAX_REGEX_CHARACTERS: Final = 8 * 1024
MAX_TEXTS: Final = 4096

# llguidance compiles a rule inside the rule that names it, 3 to 9 kB of stack each, and running out ends the process.
# The shortest chain, 8 characters a rule, has 16 000 within MAX_CHARACTERS. Only what is used becomes memory.
_STACK_BYTES: Final = 512 * 1024**2

# A space, or a new line with its indentation. JSON allows whitespace without end, and models that are held to JSON but
# have nothing to say are known to write it until they are stopped.
_WHITESPACE: Final = r" |\r?\n( {0,32}|\t{0,8})"

# All rows wait for the slowest mask, so that ambiguity, which makes an Earley parser slow, is cut off at a quarter of
# llguidance's own limit. A lexer's state takes 1 to 2 kB: 64 MB per row at worst. The limits left at their defaults
# are about 20 ms to compile, 14 ms for a mask, 500 000 symbols.
_LIMITS: Final = LLParserLimits(max_items_in_row=500, max_lexer_states=32_000, verbose_errors=False)


class Matcher:
    """How far one completion has come in its grammar. Belongs to one thread at a time."""

    __slots__ = ("_accepted", "_kind", "state")

    def __init__(self, state: LLMatcher, kind: str) -> None:
        """`kind` is the constraint's, to be named in errors."""
        self.state = state
        self._kind = kind
        self._accepted = 0

    def accept(self, token_id: int) -> bool:
        """Go on by one token; False when the grammar does not allow it, or has become too complex. It stays so."""
        accepted = self.state.consume_token(token_id)
        self._accepted += accepted
        return accepted

    def replay(self, token_ids: Sequence[int]) -> bool:
        """Go on by the tokens of an earlier attempt; False if the grammar does not allow them."""
        accepted = self.state.consume_tokens(list(token_ids))
        self._accepted += len(token_ids) if accepted else 0
        return accepted

    def allowed(self, vocab_size: int) -> set[int]:
        """The tokens below `vocab_size` that may come next. For small vocabularies: it looks at each of them."""
        mask = self.state.compute_bitmask()
        return {token_id for token_id in range(vocab_size) if mask[token_id >> 3] >> (token_id & 7) & 1}

    @property
    def error(self) -> MeshError:
        """What to say after `accept` has returned False: invalid_request, as no other worker would get any further."""
        reason = _sentence(self.state.get_error())
        text = f"'{self._kind}' became too complex to follow after {self._accepted} tokens: {reason}"
        return invalid(self._kind, text)


class GrammarTokenizer(MarkedTokenizer, Protocol):
    """What grammars need of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """How many tokens it has."""
        ...

    def vocabulary(self, size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
        """Its tokens for llguidance, filled up to `size`. Raises ValueError if llguidance cannot take them."""
        ...


class Grammars:
    """Compiles the grammars of one tokenizer, on a thread of its own. Any thread may ask, and waits."""

    def __init__(self, tokenizer: GrammarTokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """`vocab_size` is the width of the logits. A grammar that is complete allows `eos_token_ids`, at least one."""
        self._tokenizer = tokenizer
        # A model may have fewer logits than its tokenizer has tokens; those that it cannot say are cut off the masks.
        self._vocab_size = max(vocab_size, tokenizer.vocab_size)
        self._eos = list(eos_token_ids)
        self._vocabulary: LLTokenizer | None = None
        self._thread = _DeepThread()

    def of_calls(self, chat: Chat, dialect: Dialect, prompt_ids: Sequence[int]) -> Constraint:
        """The constraint of an answer to a chat that demands something of its calls. Raises unsupported."""
        return call_constraint(chat, dialect, self._tokenizer, prompt_ids)

    def after_reasoning(self, constraint: Constraint, dialect: Dialect, prompt_ids: Sequence[int]) -> Constraint:
        """The constraint for the whole output of a model that may reason first."""
        return after_reasoning(constraint, dialect, self._tokenizer, prompt_ids)

    def compile(self, constraint: Constraint) -> Matcher:
        """A matcher at the beginning of the grammar.

        Takes milliseconds, and up to a second the first time. Raises invalid_request that names the kind of constraint
        and says why it cannot be compiled.
        """
        return self._thread.call(lambda: Matcher(_compile(constraint, self._trie()), constraint.kind))

    def _trie(self) -> LLTokenizer:
        if self._vocabulary is None:
            try:
                self._vocabulary = self._tokenizer.vocabulary(self._vocab_size, self._eos)
            except ValueError as error:
                text = f"'constraint' is not supported by this model's tokenizer: {_sentence(str(error))}"
                raise unsupported("constraint", text) from None
        return self._vocabulary


class _DeepThread:
    """One thread with room for deep recursion, started by the first call."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._starting = threading.Lock()
        self._started = False

    def call(self, work: Callable[[], Matcher]) -> Matcher:
        """Wait for the calls before and then for the result of `work`; raises what it raises."""
        if not self._started:
            self._start()
        return self._executor.submit(work).result()

    def _start(self) -> None:
        with self._starting:
            # The size is the process's: a thread that starts elsewhere at this moment gets it too, and does not mind.
            before = threading.stack_size(_STACK_BYTES)
            try:
                self._executor.submit(int).result()
            finally:
                threading.stack_size(before)
            self._started = True


def _compile(constraint: Constraint, trie: LLTokenizer) -> LLMatcher:
    grammar = _grammar(constraint)
    if constraint.around:
        grammar = _placed(grammar, constraint.around)
    matcher = LLMatcher(trie, grammar, log_level=0, limits=_LIMITS)
    # The first mask shows grammars that no text satisfies.
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
    most = MAX_REGEX_CHARACTERS if kind == "regex" else MAX_CHARACTERS
    if (size := sum(map(len, texts))) > most:
        raise invalid(kind, f"'{kind}' must have at most {most} characters, not {size}")
    match kind:
        case "json_object":
            return _json_grammar('{"type": "object"}')
        case "json_schema":
            return _json_grammar(texts[0])
        case "regex":
            # d, w: ASCII, as in a schema's "pattern".
            return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(texts[0], 'dw')}/")
        case "grammar" | "tools":
            return LLMatcher.grammar_from_lark(texts[0])
        case "choice":
            # Lark's strings are JSON's.
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts)))


def _placed(answer: str, around: str) -> str:
    """A grammar within another one, which calls it `@answer`."""
    inner: dict[str, object] = {"lark_grammar": answer}
    if answer.startswith("{"):  # the notation for several grammars, of which there is one
        inner = json.loads(answer)["grammars"][0]
    return json.dumps({"grammars": [{"lark_grammar": around}, {**inner, "name": "answer"}]})


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
