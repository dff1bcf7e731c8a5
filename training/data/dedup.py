"""`mesh data dedup`: the first of several equal or nearly equal conversations stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, Literal, cast

import numpy as np

from mesh.config import option
from training.conversations import Conversation
from training.data.tool import Gate, Item, Refused, Tool
from training.data.words import digest, ngrams, words

_DIGEST: Final = 16
_AT_A_TIME: Final = 4096
"""n-grams that are hashed in one call, which takes `permutations` numbers for each."""
_RATHER_FOUND: Final = (0.02, 0.98)
By = Literal["conversation", "first-exchange", "prompt", "id"]


@dataclass(frozen=True, kw_only=True)
class Dedup(Tool):
    """Remove conversations whose words another one before them has, all of them or nearly."""

    by: By = option(
        "conversation", "What is compared: conversation, first-exchange, prompt (the first question), or id."
    )
    near: bool = option(True, "Remove near-duplicates, too, found with MinHash.")
    threshold: float = option(0.8, "Near: the share of n-grams in common (Jaccard) from which on.", low=0.1, high=1)
    ngram: int = option(5, "Near: words of an n-gram.", low=1)
    permutations: int = option(
        128, "Near: of MinHash. More take more memory and time, and err less.", low=16, high=1024
    )

    @property
    def looks_near(self) -> bool:
        """Ids are equal or not."""
        return self.near and self.by != "id"

    def mark(self) -> Callable[[Conversation], bytes] | None:
        return partial(_mark, self)

    def gate(self) -> Gate | None:
        return _Seen(self)


def _mark(options: Dedup, conversation: Conversation) -> bytes:
    """A digest of the words, and behind it the signature if near-duplicates are asked for. Empty: equal to none."""
    compared = _compared(options.by, conversation)
    if not compared:
        return b""
    exact = digest(" ".join(compared))
    return exact + _signature(options, compared).tobytes() if options.looks_near else exact


def _compared(by: By, conversation: Conversation) -> list[str]:
    match by:
        case "conversation":
            return words(conversation.text)
        case "first-exchange":
            exchange = next(conversation.exchanges(), ())
            return words("\n".join(message.text for message in exchange[:2]))
        case "prompt":
            return words(next((one.content for one in conversation.messages if one.role == "user"), ""))
        case "id":
            return [conversation.id] if conversation.id is not None else []


def _signature(options: Dedup, compared: list[str]) -> Any:
    """uint32 `[permutations]`: how often two agree tells the share of n-grams that their texts have in common."""
    made: Any = _empty_signature(options.permutations).copy()
    found = ngrams(compared, options.ngram) if len(compared) >= options.ngram else iter((" ".join(compared),))
    while some := [ngram.encode("utf-8", "surrogatepass") for ngram in islice(found, _AT_A_TIME)]:
        made.update_batch(some)
    return made.hashvalues


@cache
def _empty_signature(permutations: int) -> Any:
    import xxhash
    from datasketch import MinHash

    return MinHash(num_perm=permutations, hashfunc=xxhash.xxh32_intdigest)


class _Seen(Gate):
    """What went by: a digest of each conversation, and for near-duplicates its signature and where its bands occur.

    datasketch has such an index, too. This one takes a third of its memory, since a band needs to name but the first of
    those that share it, and since what it finds is compared by signature.
    """

    def __init__(self, options: Dedup) -> None:
        self._options = options
        self._digests: set[bytes] = set()
        self._signatures: list[bytes] = []
        self._width = 0
        self._bands: list[dict[bytes, int]] = []
        if options.looks_near:
            from datasketch import MinHashLSH

            # More candidates than duplicates: too many cost a comparison each, one too few is a duplicate that stays.
            index: Any = MinHashLSH(options.threshold, options.permutations, weights=_RATHER_FOUND)
            self._width = 4 * cast("int", index.r)
            self._bands = [{} for _ in range(index.b)]

    def decide(self, items: Iterable[Item]) -> Iterator[Item | Refused]:
        for item in items:
            exact, signature = item.mark[:_DIGEST], item.mark[_DIGEST:]
            if exact and exact in self._digests:
                yield Refused(item, "a duplicate" if self._options.by != "id" else "an id that was there before")
                continue
            if signature and (alike := self._nearest(signature)) is not None:
                yield Refused(item, "a near-duplicate", f"{alike:.0%} in common")
                continue
            if exact:
                self._digests.add(exact)
            yield item

    def _nearest(self, signature: bytes) -> float | None:
        """How much the signature has in common with one that went by, from the threshold on; else it is remembered."""
        keys = [_key(signature[start : start + self._width]) for start in self._starts()]
        candidates = {table[key] for table, key in zip(self._bands, keys, strict=True) if key in table}
        mine = np.frombuffer(signature, np.uint32)
        for place in candidates:
            same = mine == np.frombuffer(self._signatures[place], np.uint32)
            alike = np.count_nonzero(same) / len(mine)
            if alike >= self._options.threshold:
                return alike
        for table, key in zip(self._bands, keys, strict=True):
            table.setdefault(key, len(self._signatures))
        self._signatures.append(signature)
        return None

    def _starts(self) -> range:
        return range(0, self._width * len(self._bands), self._width)


def _key(band: bytes) -> bytes:
    return blake2b(band, digest_size=8).digest()
