"""The conversations written, encoded and packed by several processes: the same rows, however many there are."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerFast

from training.demo.conversation import Conversation
from training.demo.corpus import conversations
from training.demo.packing import Rows, joined, pack
from training.demo.tokenizer import PAD_ID, encode

ROW = 640
"""Tokens of a packed row: the longest conversation that is learnt whole."""

_SHARE = 12_000
"""Conversations that one process writes at a time, and packs by themselves."""

Key = tuple[str, str]
"""What makes two questions the same: the user's message before it and the question, without case and punctuation."""


@dataclass(frozen=True)
class Order:
    """What to write: `count` conversations of the seed."""

    seed: str
    count: int

    def shares(self) -> list[range]:
        return [range(start, min(start + _SHARE, self.count)) for start in range(0, self.count, _SHARE)]


def write_rows(order: Order, tokenizer: PreTrainedTokenizerFast, jobs: int) -> Rows:
    """All conversations of the order, packed."""
    shares = order.shares()
    with _processes(jobs) as pool:
        return joined(list(pool.map(_rows, [order] * len(shares), shares, [tokenizer] * len(shares))))


def keys_in(order: Order, wanted: frozenset[Key], jobs: int) -> set[Key]:
    """Those of the wanted keys that the conversations of the order have, too."""
    shares = order.shares()
    with _processes(jobs) as pool:
        found = pool.map(_found, [order] * len(shares), shares, [wanted] * len(shares))
        return set[Key]().union(*found)


def key(user_messages: Sequence[str]) -> Key:
    """The key of the last of these messages, which follow one another in one conversation."""
    before = user_messages[-2] if len(user_messages) > 1 else ""
    return _plain(before), _plain(user_messages[-1])


def _processes(jobs: int) -> ProcessPoolExecutor:
    # Not forked: a copy of a process with torch's threads may hang.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def _rows(order: Order, numbers: range, tokenizer: PreTrainedTokenizerFast) -> Rows:
    written = conversations(order.seed, order.count, numbers)
    return pack((encode(tokenizer, one) for one in written), ROW, PAD_ID)


def _found(order: Order, numbers: range, wanted: frozenset[Key]) -> set[Key]:
    written = conversations(order.seed, order.count, numbers)
    return {found for one in written for found in _keys(one) if found in wanted}


def _keys(conversation: Conversation) -> Iterator[Key]:
    """Each question by itself, since a new thread may begin with it, and after the one before."""
    users = [exchange.user for exchange in conversation.exchanges]
    yield from (key([user]) for user in users)
    yield from (key(two) for two in pairwise(users))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9+*/=-]+", " ", text.lower()).strip()
