"""What battles leave behind, and the three who see to it: the words between pages, store, sampler and gate.

The values know no page, no database and no network. Times are aware and in UTC, durations are seconds. The protocols
are what the pages ask of the rest of this package: `Store` keeps (webui/store), `Sampler` pairs (webui/sampling.py),
`Gate` refuses and marks (webui/trust). All of their methods are called in threads of their own, several at a time, and
may block, but for the `async` ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

# "battle" hides who answers until the vote, and counts; in "named" the models are chosen, and votes are kept but do not
# count; "direct" has one model and no votes.
Mode = Literal["battle", "named", "direct"]
Modality = Literal["text", "image"]
Choice = Literal["a", "b", "tie", "both_bad"]
# The gateway's reasons, and two of ours: "stopped" by the person, "error" (see `Answer.error`).
Finish = Literal["stop", "length", "content_filter", "tool_calls", "stopped", "error"]
Reaction = Literal["like", "dislike"]
FlagKind = Literal["identity", "refusal", "error", "unfinished", "moderation", "report"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models that were drawn. `probability`: with which these two are drawn, on whichever side; in (0, 1]."""

    a: str
    b: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Battle:
    """A conversation with one model (direct) or two, in the order of their sides.

    The id is 128 random bits: it is good for one vote. `probability` is the pair's, in battles only. `parameters` are
    those of the requests (temperature, top_p, max_tokens) that are not the arena's own.
    """

    id: str
    mode: Mode
    models: tuple[str, ...]
    voter: str
    opened: datetime
    modality: Modality = "text"
    probability: float | None = None
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one model said in one turn, all of it or until it broke. `error` is the gateway's code, else empty.

    `first_token` and `duration` count from the request; they are None where no token came.
    """

    text: str
    finish: Finish
    reasoning: str = ""
    error: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token: float | None = None
    duration: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the model itself came to an end, or to the limit of tokens."""
        return self.finish not in ("stopped", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image as it was let in: decoded and encoded anew, without metadata. `key` is the SHA-256 of `data`, in hex."""

    key: str
    data: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A prompt and its answers, in the order of the battle's models. Turns of a battle are numbered from 1."""

    number: int
    prompt: str
    asked: datetime
    answers: tuple[Answer, ...]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a person thinks of the two sides after `turn` turns. Both must be complete in that turn."""

    battle: str
    turn: int
    choice: Choice
    voter: str
    cast: datetime


@dataclass(frozen=True, slots=True)
class Flag:
    """A mark on a turn that takes it out of some ratings, or asks a person to look. `side` is None for the prompt."""

    kind: FlagKind
    side: Literal["a", "b"] | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A battle with its turns and its vote, if there is one: what a permalink shows."""

    battle: Battle
    turns: tuple[Turn, ...]
    vote: Vote | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What is told about a model once it may be named. `link` is where to read about it."""

    name: str
    organization: str = ""
    license: str = ""
    link: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What visitors agree to before their first prompt, in Markdown."""

    text: str

    @property
    def hash(self) -> str:
        """The SHA-256 of the text, in hex: another text has to be agreed to anew."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks. `voter` is a salted hash (see `Store.voter_id`); the network address is for counting, never kept."""

    voter: str
    address: str


class VoteRefused(Exception):
    """A vote that does not count; `reason` is a sentence for the page."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StoreUnavailable(Exception):
    """Nothing was kept: the database is locked, full or gone. The message is for operators."""


class Refused(Exception):
    """What a person asked for is not let in; `reason` is a sentence for the page that names the limit and the value.

    `retry_after` seconds later it may be, where that is known.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class NotAgreed(Refused):
    """The visitor has not agreed to the terms as they are now."""

    def __init__(self) -> None:
        super().__init__("Please read the terms first, and agree to them.")


class Store(Protocol):
    """Keeps everything. What a method was given is durable when it returns; it raises StoreUnavailable otherwise."""

    def voter_id(self, secret: str) -> str:
        """The hash of a visitor's cookie with the salt of this store."""
        ...

    def open_battle(self, battle: Battle) -> None:
        """A battle that begins; before its first turn."""
        ...

    def save_turn(self, battle: str, turn: Turn, flags: Sequence[Flag] = ()) -> None:
        """A turn that has ended, with its pictures.

        One with the number of an earlier one takes its place, and all later turns go (answers are regenerated and
        prompts edited). After a vote this is still right: the vote keeps to the turns up to its own as they were.
        """
        ...

    def vote(self, vote: Vote) -> None:
        """The vote of a battle. The same vote again is the same vote; any other raises VoteRefused.

        So do a vote on a battle that is not known, or is another voter's, or whose turn is not there or incomplete.
        """
        ...

    def votes_of(self, voter: str, day: datetime) -> int:
        """How many votes of a voter were kept on the day of that moment, in UTC."""
        ...

    def react(self, battle: str, turn: int, side: Literal["a", "b"], reaction: Reaction | None) -> None:
        """What a person thinks of one answer; None takes it back."""
        ...

    def flag(self, battle: str, turn: int, flag: Flag) -> None:
        """A mark that comes after the turn was saved."""
        ...

    def share(self, battle: str) -> str:
        """Open a battle to everybody who has the key that is returned: the same key each time."""
        ...

    def shared(self, key: str) -> Conversation | None:
        """The battle of such a key, as it is now."""
        ...

    def agree(self, voter: str, terms: str, at: datetime) -> None:
        """A voter agrees to the terms with this hash."""
        ...

    def agreed(self, voter: str, terms: str) -> bool:
        """Whether a voter has agreed to the terms with this hash."""
        ...

    def unfinished(self, voter: str, mode: Mode, since: datetime) -> Conversation | None:
        """The last battle that a voter began in a mode, if that was since then and it has turns but no vote."""
        ...

    def delete_voter(self, voter: str) -> int:
        """Take out all that a voter left; returns how many battles that were."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class Sampler(Protocol):
    """Draws who battles."""

    def draw(self, models: Sequence[str]) -> Pair:
        """Two of these models (at least two, no repeats), the sides included."""
        ...


class Gate(Protocol):
    """Says what is let in, and marks what should not count."""

    def admit_prompt(self, visitor: Visitor, text: str) -> None:
        """Count a prompt. Raises Refused when it is too long or comes too soon."""
        ...

    def admit_vote(self, visitor: Visitor, before: int) -> None:
        """Count a vote, after so many of the visitor today. Raises Refused when there are no more for today."""
        ...

    def admit_image(self, visitor: Visitor, data: bytes) -> Picture:
        """The image, encoded anew. Raises Refused when it is too large in bytes or pixels, or is none."""
        ...

    async def moderate(self, texts: Sequence[str]) -> None:
        """Look at prompts before they are sent. Raises Refused."""
        ...

    async def inspect(self, battle: Battle, turn: Turn) -> Sequence[Flag]:
        """The marks that a finished turn deserves: both answers are looked at."""
        ...
