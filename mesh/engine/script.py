"""What the scripted engine says: its options, its tokenizer, and the script of an answer."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from mesh.dialects import UNKNOWN, Dialect
from mesh.engine.base import Chat, Image, Message, Request, Sampling, Text, Tokens
from mesh.engine.text import ByteDetokenizer, check_text
from mesh.engine.uniform import mix, stream
from mesh.errors import invalid, out_of_range, unsupported

if TYPE_CHECKING:
    from llguidance import LLTokenizer

WORDS: Final = """
a about above across after again air all along always among an and animal another answer any are around as ask at away
back be before began begin being below between big bird boat body book both boy bread bring build but by call came can
carry change child city clear close cloud cold color come could country cross cut dark day deep did different do does
door down draw dream drive each early earth east easy eat end enough even ever every eye face fall family far farm fast
father feel field find fire first fish flower fly follow food for forest found four friend from full garden gave girl
give glass go gold good grass great green ground group grow had half hand happy hard has have he head hear heart heavy
help her here high hill him his home hope horse hour house how hundred ice idea if important in into island it its just
keep kind king know land large last late laugh learn leave left less letter life light like line list listen little
live long look love low made make man many map mark may me mean men might mile mind money moon more morning most mother
mountain move much music must my name near need never new next night no north not note notice now number of off often
old on once one only open or order other our out over own page paper part pass people picture place plain plan plant
play point power press quick quiet rain ran read ready real red rest rich ride right river road rock room round run
said sail same sand saw say school sea second see seem self sentence set seven shape she ship short should show side
simple since sing six sky sleep slow small snow so some song soon sound south spring stand star start stay step still
stone stop story street strong such summer sun sure table take talk tell ten than that the their them then there these
they thing think this those thought thousand three through time to together told tomorrow too took top town travel tree
true try turn two under until up upon us use very voice wait walk wall want warm was watch water way we week well went
were west what wheel when where which while white who whole why wide wild will wind window winter wish with woman wonder
wood word work world would write year yellow yes yet you young your
""".split()

SPECIALS: Final = ("<|end|>", "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
END: Final = 256
BEGIN: Final = 257
ROLES: Final = {"system": 258, "developer": 258, "user": 259, "assistant": 260, "tool": 261}
_FIRST_WORD: Final = 256 + len(SPECIALS)
VOCAB_SIZE: Final = _FIRST_WORD + len(WORDS)
_SPECIAL_IDS: Final = frozenset(range(256, _FIRST_WORD))

_BYTES: Final = (
    *(bytes([byte]) for byte in range(256)),
    *(special.encode() for special in SPECIALS),
    *(f" {word}".encode() for word in WORDS),
)
_WORD_IDS: Final = {f" {word}": _FIRST_WORD + place for place, word in enumerate(WORDS)}
PIECES: Final = re.compile(r" [a-z]+|[^ ]+| ", re.DOTALL)


def _bytes_of(token_id: int) -> bytes:
    return _BYTES[token_id] if 0 <= token_id < VOCAB_SIZE else b""


class ScriptCodec:
    """A Codec of its own: ids 0 to 255 are bytes, then special tokens, then frequent words with the space before them.

    Any text is encoded, and decoded to the same text. As with many models, an answer of its own loses the space before
    its first word. Special tokens in a text are text.
    """

    def __init__(self, *, vision: bool = False) -> None:
        self._vision = vision

    def encode(self, text: str, *, add_special_tokens: bool = True, param: str = "prompt") -> list[int]:
        """See Codec."""
        check_text(text, param)
        ids = [BEGIN] if add_special_tokens else []
        for piece in PIECES.findall(text):
            word = _WORD_IDS.get(piece)
            if word is None:
                ids.extend(piece.encode())
            else:
                ids.append(word)
        return ids

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Codec."""
        detokenizer = self._detokenizer(SPECIALS if keep_special_tokens else (), strip=0)
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

    def token_bytes(self, token_id: int) -> bytes:
        """See Codec."""
        return _bytes_of(token_id)

    def detokenizer(
        self,
        *,
        keep_special_tokens: bool = False,
        kept_tokens: Collection[str] = (),
        context: Sequence[int] = (),
    ) -> ByteDetokenizer:
        """See Codec."""
        continues = any(token_id not in _SPECIAL_IDS for token_id in reversed(context))
        return self._detokenizer(SPECIALS if keep_special_tokens else kept_tokens, strip=0 if continues else 1)

    def _detokenizer(self, kept: Collection[str], strip: int) -> ByteDetokenizer:
        skip = frozenset(256 + place for place, token in enumerate(SPECIALS) if token not in kept)
        return ByteDetokenizer(_bytes_of, skip, strip)

    vocab_size = VOCAB_SIZE

    def special_id(self, text: str) -> int | None:
        """See MarkedTokenizer. Special tokens in a text are text."""
        return None

    def vocabulary(self, size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
        """See GrammarTokenizer."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Vocabulary()), n_vocab=size, eos_token=list(eos_token_ids))

    def render(self, chat: Chat) -> list[int]:
        """Token ids of a conversation: each message between the token of its role and the end token.

        Tools and template arguments come first, as JSON in a message of the system.
        """
        if chat.chat_template is not None:
            raise unsupported("chat_template", "'chat_template' cannot be used: the scripted engine has its own")
        if not chat.messages:
            raise invalid("messages", "'messages' must hold at least one message")
        if chat.continue_final_message and chat.add_generation_prompt:
            raise invalid("continue_final_message", "'continue_final_message' excludes 'add_generation_prompt'")
        if chat.has_images and not self._vision:
            raise unsupported("messages", "'messages' holds an image: the scripted engine takes text only")
        ids = [BEGIN]
        setting = _setting(chat)
        for role, text in [("system", setting)] * bool(setting) + [
            (message.role, message_text(message)) for message in chat.messages
        ]:
            if role not in ROLES:
                raise invalid("messages", f"'messages' has the role '{role}': must be one of {', '.join(ROLES)}")
            ids += [ROLES[role], *self.encode(text, add_special_tokens=False, param="messages"), END]
        if chat.continue_final_message:
            ids.pop()
        if chat.add_generation_prompt:
            ids.append(ROLES["assistant"])
        return ids


class _Vocabulary:
    """The tokens as llguidance asks for them."""

    eos_token_id = END
    bos_token_id = None
    tokens = _BYTES
    special_token_ids = sorted(_SPECIAL_IDS)

    def __call__(self, text: bytes) -> list[int]:
        """Any text in tokens."""
        return list(text)


def _setting(chat: Chat) -> str:
    tools = [
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)} for tool in chat.tools
    ]
    values = {"tools": tools, **chat.template_arguments} if tools else dict(chat.template_arguments)
    return json.dumps(values, default=str) if values else ""


def message_text(message: Message) -> str:
    """All that a message says, as one text; of an image its hash."""
    parts = [f"{message.name}: "] if message.name else []
    parts += [message.reasoning] if message.reasoning else []
    for part in message.parts or ():
        if isinstance(part, Image):
            parts.append(f"[image {hashlib.sha256(part.data).hexdigest()[:8]}]")
        else:
            parts.append(part)
    parts += [f"{call.name}({call.arguments})" for call in message.tool_calls]
    return "\n".join(parts)


@dataclass(frozen=True)
class ScriptedOptions:
    """How the scripted engine behaves; times in seconds.

    Answers: `text` is "words" (made up from a hash of prompt, seed and choice: `tokens` words, then the end token),
    "echo" (the prompt's last text or message again), or the path of a text file, whose calls and reasoning, if it has
    any, are for the parsers of `dialect`. Lines of a single % part a file into several answers, of which the same hash
    picks one. In a *.json file there is an object: the answer is the value of the first key that the prompt's last text
    contains, and without one that text again. Speed: a step for all rows every `step_interval`
    (0: as fast as the event loop allows), each interval longer or shorter by up to the share `jitter` of it;
    `first_token_delay` stands for the prefill. Size: at most `slots` rows in a step, `max_waiting` rows in the queue.

    Under a constraint, or where calls are demanded (`tool_choice`, `strict`), the answer is the script as far as the
    grammar allows it, and then whatever ends soonest: "echo" says exactly the JSON or the call that it is given.

    Faults: `refuse` all requests as overloaded; in each attempt of a request, after k tokens of a row, `fail_after`
    breaks the request, `stall_after` lets the row produce nothing any more, `crash_after` ends the process.
    """

    name: str = "scripted"
    text: str = "words"
    tokens: int = 64
    dialect: Dialect = UNKNOWN
    step_interval: float = 0.0
    first_token_delay: float = 0.0
    jitter: float = 0.0
    jitter_seed: int = 0
    slots: int = 64
    max_waiting: int = 1024
    context_length: int = 4096
    embedding_size: int = 64
    vision: bool = False
    refuse: bool = False
    fail_after: int | None = None
    stall_after: int | None = None
    crash_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("step_interval", "first_token_delay", "fail_after", "stall_after", "crash_after"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise invalid(name, f"'{name}' must be at least 0, not {value}")
        for name in ("tokens", "slots", "max_waiting", "context_length", "embedding_size"):
            if getattr(self, name) < 1:
                raise invalid(name, f"'{name}' must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.jitter <= 1:
            raise out_of_range("jitter", self.jitter, 0, 1)


class Script:
    """The answer of one choice: its next token is a pure function of prompt, options, choice and position.

    With temperature, the seed and the choice change the words. Options that reshape a distribution leave this one as
    it is, because all of it lies on one token.
    """

    __slots__ = ("_avoid", "_end", "_ids", "_min_tokens", "_state")

    def __init__(self, state: int, ids: Sequence[int] | None, length: int, sampling: Sampling) -> None:
        """`ids` are the text in tokens, None for words; `length` is where the end token comes."""
        self._state = state
        self._ids = ids
        self._end = max(length, sampling.min_tokens)
        self._min_tokens = sampling.min_tokens
        self._avoid = frozenset(sampling.stop_token_ids)

    def token(self, position: int) -> int:
        """The token at a position, from 0. After the end token, for those who ignore it, the text begins again."""
        if position == self._end:
            return END
        if self._ids is None:
            token_id = _FIRST_WORD + (mix(self._state ^ position) * len(WORDS) >> 64)
        else:
            place = position if position < self._end else position - self._end - 1
            token_id = self._ids[place % len(self._ids)] if self._ids else END
        while position < self._min_tokens and token_id in self._avoid:
            token_id = _FIRST_WORD + (token_id - _FIRST_WORD + 1) % len(WORDS)
        return token_id

    def logprob(self, position: int, token_id: int, top: int) -> tuple[float, list[tuple[int, float]]]:
        """Made-up log probabilities of the token at a position and of the `top` likeliest ones, it being the first."""
        chosen = -0.05 - (mix(~self._state ^ position) >> 11) * 2.0**-53
        # Each is e^3 times less likely than the one before, so that all together stay below 1.
        likely = [((token_id + 7 * place) % VOCAB_SIZE, chosen - 3.0 * place) for place in range(top)]
        return chosen, likely


class ScriptOfIds(Script):
    """The script of one choice whose tokens are known; after them there is nothing but the end."""

    __slots__ = ("_known",)

    def __init__(self, script: Script, ids: Sequence[int]) -> None:
        """`script` is where its log probabilities are made up from."""
        self._state = script._state
        self._known = ids

    def token(self, position: int) -> int:
        """See Script."""
        return self._known[position] if position < len(self._known) else END


class Author:
    """Writes the scripts of requests."""

    def __init__(self, options: ScriptedOptions, codec: ScriptCodec) -> None:
        """Raises invalid_request for a text file that cannot be read."""
        self._options = options
        self._codec = codec
        self._file: list[Sequence[int]] = []
        self._answers: dict[str, Sequence[int]] = {}
        if options.text.endswith(".json"):
            answers = _answers(options.text)
            self._answers = {key: codec.encode(text, add_special_tokens=False) for key, text in answers.items()}
        elif options.text not in ("words", "echo"):
            # The form of `fortune`: one text, or several with lines of a single % between them.
            texts = re.split(r"^%\n", _read(options.text), flags=re.MULTILINE)
            self._file = [codec.encode(text, add_special_tokens=False) for text in texts]

    @property
    def fingerprint(self) -> str:
        """32 hex digits over all that changes answers."""
        options = self._options
        facts = [options.text, options.tokens, options.context_length, self._file, WORDS, SPECIALS]
        facts += [self._answers] if self._answers else []
        if options.dialect != UNKNOWN:
            facts += [options.dialect.tools, options.dialect.reasoning]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()

    def script(self, request: Request, prompt_ids: Sequence[int], choice: int) -> Script:
        """The script of one choice."""
        sampling = request.sampling
        state = text_state(prompt_ids)
        if sampling.temperature > 0:
            state = stream(state ^ sampling.seed, choice)
        if self._options.text == "words":
            return Script(state, None, self._options.tokens, sampling)
        ids = self._file[state % len(self._file)] if self._file else self._reply(request)
        return Script(state, ids, len(ids), sampling)

    def _reply(self, request: Request) -> Sequence[int]:
        match request.prompt:
            case Tokens(ids):
                return ids
            case Text(text):
                pass
            case Chat() as chat:
                # Agents may put instructions behind what the user says.
                said = [message for message in chat.messages if message.role not in ("system", "developer")]
                text = message_text((said or chat.messages)[-1])
        known = (ids for key, ids in self._answers.items() if key in text)
        return next(known, None) or self._codec.encode(text, add_special_tokens=False)


def text_state(ids: Sequence[int]) -> int:
    """A 64-bit hash of token ids, the same on every machine."""
    words = array("I", ids)
    digest = hashlib.blake2b(words.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _answers(path: str) -> dict[str, str]:
    try:
        found = json.loads(_read(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise invalid("text", f"'text' must be the path of a JSON object of texts, which '{path}' does not hold")
    return {key: str(value) for key, value in cast("dict[str, object]", found).items()}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("text", f"'text' must be words, echo or a readable text file, not '{path}'") from error
