"""What the engine's thread knows of a request: one Work per request, one Row per choice.

A row's tokens are its prompt and what was generated so far. The KV entries of its first `computed` tokens are in the
cache. A row takes part in a step with the next `count` tokens after those; when they reach the last one, the step
yields the row's next token. So a decoding row is one with a single token to compute, and a row that was resumed or
preempted is nothing special: it has more to compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from mesh.engine.base import Sampling
from mesh.engine.transformers.scheduling.blocks import extend_digests

if TYPE_CHECKING:
    from mesh.engine.constraint import Matcher
    from mesh.engine.output import RawLogprob
    from mesh.engine.sampler import RowState
    from mesh.engine.transformers.lora.hooks import Adapter
    from mesh.engine.transformers.scheduling.drafts import Drafter
    from mesh.engine.transformers.vision.pictures import Pictures
    from mesh.engine.transformers.vision.tower import Features


class RowPhase(Enum):
    """Where a row is. Only RUNNING rows hold pages."""

    HELD = auto()  # waits until its leader has computed the prompt that they share
    WAITING = auto()
    PARKED = auto()  # would wait, but may not report a token: without credit
    RUNNING = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Work:
    """One request. `order` is its place in the order of arrival; times are of time.monotonic().

    `credit` is the number of tokens that may still be sampled over all rows; None is no limit. `root` is the root of
    its pages' digests; None switches the prefix cache off. `tail` is the digest of the prompt's last page, once the
    first row has computed it for the others to copy. `scores` are the log probabilities of the prompt's second token,
    its third, and so on, as far as the first row has computed them; None if nobody asked. `features` is what the model
    saw in the `pictures`, while that is at hand; it can be computed again. The times and the scores are written by the
    engine's thread before the report that shows their effect, and read by the event loop's thread after it.
    """

    key: int
    order: int
    sampling: Sampling
    prompt: list[int]
    priority: int = 0
    root: bytes | None = None
    adapter: Adapter | None = None
    credit: int | None = None
    deadline: float | None = None
    arrived: float = 0.0
    rows: list[Row] = field(default_factory=list["Row"])
    leader: Row | None = None
    tail: bytes | None = None
    logprobs: int | None = None
    prompt_logprobs: int = 0
    scores: list[RawLogprob] | None = None
    pictures: Pictures | None = None
    features: Features | None = None
    prompt_digests: list[bytes] = field(default_factory=list[bytes])
    cached_tokens: int = 0
    first_step: float | None = None
    spared: bool = False  # it was part of a broken step that none of its requests was to blame for

    @property
    def unscored(self) -> int:
        """Tokens of the prompt whose log probabilities are asked for and not known yet."""
        return 0 if self.scores is None else len(self.prompt) - 1 - len(self.scores)

    @property
    def keys(self) -> list[int]:
        """What stands for the prompt's tokens in digests: equal pictures are equal, and not all pictures."""
        return self.prompt if self.pictures is None else self.pictures.keys

    @property
    def has_credit(self) -> bool:
        """Whether one more token may be sampled."""
        return self.credit is None or self.credit > 0

    def take_credit(self) -> bool:
        """Use up one token's credit, if there is one."""
        if self.credit is None:
            return True
        if self.credit <= 0:
            return False
        self.credit -= 1
        return True

    def give_credit_back(self, tokens: int = 1) -> None:
        """Undo `take_credit`: the tokens were not sampled."""
        if self.credit is not None:
            self.credit += tokens


@dataclass(slots=True, eq=False)
class Row:
    """One choice of a request.

    `most` is the greatest length of `tokens`; `least` the length from which stop tokens count; `slot` the index of
    its line in the runner's tables while it is running, else -1. The first `registered` of its pages were offered to
    the prefix cache. It is `unverified` while pieces of it were computed whose numbers nobody has seen to be finite.
    `matcher` is where its tokens have come to in the request's grammar, if there is one; preemption leaves it there.
    """

    work: Work
    choice: int
    tokens: list[int]
    most: int
    least: int
    stop_ids: frozenset[int]
    phase: RowPhase = RowPhase.WAITING
    computed: int = 0
    slot: int = -1
    pages: list[int] = field(default_factory=list[int])
    digests: list[bytes] = field(default_factory=list[bytes])
    registered: int = 0
    unverified: bool = False
    matcher: Matcher | None = None
    sampler: RowState | None = None
    drafter: Drafter | None = None
    rank: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.rank = (self.work.priority, self.work.order, self.choice)

    @property
    def scores_prompt(self) -> bool:
        """Whether this row is to compute log probabilities of the prompt."""
        return self.work.unscored > 0 and self is self.work.rows[0]

    @property
    def remaining(self) -> int:
        """Tokens whose KV entries are not in the cache."""
        return len(self.tokens) - self.computed

    def update_digests(self, page_size: int, upto: int) -> None:
        """Bring the digests of the full pages within the first `upto` tokens up to date."""
        root = self.work.root
        if root is None or len(self.digests) >= upto // page_size:
            return
        if not self.digests:
            self.digests = self.work.prompt_digests[:]
        work = self.work
        keys = self.tokens if work.pictures is None else work.keys + self.tokens[len(work.prompt) :]
        extend_digests(self.digests, root, keys, page_size, upto)

    def piece(self, count: int, *, at_least_one: bool) -> int:
        """How many of the next `count` tokens may be computed in one step; see `Pictures.piece`."""
        pictures = self.work.pictures
        return count if pictures is None else pictures.piece(self.computed, count, at_least_one=at_least_one)

    def ends_with(self, token: int, length: int) -> bool:
        """Whether the row is over with `token` as the last of `length` tokens."""
        return length >= self.most or (token in self.stop_ids and length >= self.least)


@dataclass(slots=True)
class Chunk:
    """The next `count` tokens of a row, in one step. The logits of the last `kept` of them are wanted.

    The last may be a `draft`: guesses of what follows the row's tokens.
    """

    row: Row
    count: int
    kept: int
    draft: list[int] = field(default_factory=list[int])

    @property
    def completes(self) -> bool:
        """Whether it reaches the row's last token, whose logits choose the next one."""
        return self.count - len(self.draft) == self.row.remaining


@dataclass(slots=True)
class Batch:
    """What one step computes: rows with a single token left, and pieces of rows with more.

    A step yields a token for each row of `decode`, then for each row of `prefill` whose piece is its last.
    """

    decode: list[Row] = field(default_factory=list[Row])
    prefill: list[Chunk] = field(default_factory=list[Chunk])

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return len(self.decode) + sum(chunk.count for chunk in self.prefill)

    @property
    def rows(self) -> list[Row]:
        """All rows that take part."""
        return self.decode + [chunk.row for chunk in self.prefill]

    @property
    def has_adapters(self) -> bool:
        """Whether an adapter changes the model for any of its rows."""
        return any(row.work.adapter is not None for row in self.rows)

    @property
    def sampled(self) -> list[Row]:
        """The rows that a token is sampled for, in order of the runner's logits."""
        return self.decode + [chunk.row for chunk in self.prefill if chunk.completes]

    @property
    def kept(self) -> int:
        """Tokens whose logits are wanted: those of `decode`, then those of each piece."""
        return len(self.decode) + sum(chunk.kept for chunk in self.prefill)

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)
