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


@dataclass(slots=True)
class Job:
    """A response that is made in the background, as any gateway can go on with it: what was asked, the request to
    workers, and the response before anything was said. `model` is the tag of the fingerprint that it was begun with,
    `next` the number of its next event, `takeovers` how many gateways have died with it."""

    id: str
    tenant: str
    request: bytes
    wire: bytes
    body: bytes
    model: bytes = b""
    next: int = 0
    takeovers: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """Events that follow each other, as bytes for clients; `first` is the number of the first one."""

    first: int
    data: bytes

    @property
    def end(self) -> int:
        """The number behind the last one."""
        return self.first + self.data.count(b"\n\n")

    def after(self, sequence: int) -> bytes:
        """Those behind the one with this number."""
        events = self.data.split(b"\n\n")[max(0, sequence + 1 - self.first) :]
        return b"\n\n".join(events)


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation, or a chat completion, by itself. `details`: the client's own pairs."""

    id: str
    created_at: int
    details: dict[str, str]


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file as it is kept; its content is elsewhere. Times are seconds since 1970, None for ever."""

    id: str
    purpose: str
    created_at: int
    expires_at: int | None
    body: bytes


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """A batch as it is kept."""

    status: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one line of a batch, as JSON; `part` says which of its files it belongs to."""

    line: int
    part: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch, or a response in the background, that has not ended; `alive_at` is None if nobody works on it."""

    id: str
    alive_at: float | None
    tenant: str = ""


class TakenOver(Exception):
    """Another gateway works on the batch."""
