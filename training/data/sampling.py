"""`mesh data sample` and `mesh data train-test`: by the dice, which fall the same way for the same seed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from mesh.config import ConfigError, option
from training.conversations import Conversation
from training.data.split import PART_OF
from training.data.tool import Dropped, Gate, Item, Refused, Step, Tool
from training.data.words import digest

_NOT_SAMPLED = "not in the sample"


@dataclass(frozen=True, kw_only=True)
class Sample(Tool):
    """Keep so many conversations, or a share of them, drawn evenly."""

    count: int | None = option(None, "How many to keep; these are held in memory.", low=1)
    share: float | None = option(None, "The share of them to keep.", low=0, high=1)
    max_chars: int | None = option(None, "Draw from conversations of no more characters.", low=1)
    seed: int = option(0, "Another number draws others.")

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise ConfigError("either --count or --share is required")

    def step(self) -> Step:
        def keep(conversation: Conversation) -> Iterator[Conversation | Dropped]:
            if self.max_chars is not None and len(conversation.text) > self.max_chars:
                yield Dropped(conversation, f"more than {self.max_chars} characters")
            elif self.share is not None and _lot(self.seed, _name(conversation)) >= self.share:
                yield Dropped(conversation, _NOT_SAMPLED)
            else:
                yield conversation

        return keep

    def gate(self) -> Gate | None:
        return None if self.count is None else _Draw(self.count, self.seed)


class _Draw(Gate):
    """Holds the items with the lowest lots; a lot is of the item's place, so that equal texts have equal chances."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed

    def decide(self, items: Iterable[Item]) -> Iterator[Item | Refused]:
        held: list[tuple[float, int, Item]] = []
        for place, item in enumerate(items):
            ticket = (-_lot(self._seed, str(place).encode()), -place, item)
            if len(held) < self._count:
                heapq.heappush(held, ticket)
            else:
                yield Refused(heapq.heappushpop(held, ticket)[2], _NOT_SAMPLED)
        for _, _, item in sorted(held, key=lambda ticket: -ticket[1]):
            yield item


@dataclass(frozen=True, kw_only=True)
class TrainTest(Tool):
    """Write chats.train.jsonl and chats.test.jsonl; equal questions, and pieces of a conversation, stay together."""

    ratio: float = option(0.9, "The share for training.", low=0, high=1)
    seed: int = option(0, "Another number draws others.")

    def part(self) -> Callable[[Conversation], str] | None:
        return lambda found: "train" if _lot(self.seed, together(found)) < self.ratio else "test"


def together(conversation: Conversation) -> bytes:
    """What conversations have in common that must not be apart: a test that was trained on tells nothing."""
    if whole := conversation.extra.get(PART_OF):
        return digest(str(whole))
    first = next((message for message in conversation.messages if message.role == "user"), conversation.messages[0])
    return digest(first.content)


def _name(conversation: Conversation) -> bytes:
    return digest(conversation.id or conversation.text)


def _lot(seed: int, name: bytes) -> float:
    """Between 0 and 1, the same for the same seed and name on every machine."""
    drawn = blake2b(name, digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest()
    return int.from_bytes(drawn, "big") / 2**64
