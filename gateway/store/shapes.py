"""What goes into the store and comes out of it, for those who know nothing of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for: `limit` entries behind the one with the id `after`, newest first if
    `descending`."""

    limit: int = 20
    after: str | None = None
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its id, and itself as JSON."""

    id: str
    body: bytes


@dataclass(slots=True)
class Kept:
    """A response as it is kept. `chain`: the responses before it; `conversation`: the one that it belongs to."""

    id: str
    created_at: int
    model: str
    status: str
    details: dict[str, str]
    body: bytes
    chain: Sequence[str]
    conversation: str | None
    inputs: Sequence[Entry]
    outputs: Sequence[Entry] = ()
