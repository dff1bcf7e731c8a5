"""Tools on a few records: what one process is asked for at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

import msgspec

from training.conversations import BadConversation, Conversation, fastchat_record, openai_record
from training.data.tool import Changed, Dropped, DroppedItem, Gate, Item, Step, Tool
from training.reading import BadRecord, Record, parse

Shape = Literal["openai", "fastchat"]
_RECORDS: Final[dict[str, Callable[[Conversation], dict[str, Any]]]] = {
    "openai": openai_record,
    "fastchat": fastchat_record,
}


@dataclass(frozen=True)
class Named:
    """A tool, and what it is called in reports."""

    name: str
    tool: Tool


@dataclass(frozen=True)
class Segment:
    """Tools that run behind one another on a conversation in one process. Only the last one may have a gate."""

    tools: tuple[Named, ...]
    shape: Shape = "openai"
    """How the conversations leave; `openai` on the way to another segment."""


@dataclass
class Tally:
    """What became of the conversations that reached a tool."""

    taken: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    changed: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Tally) -> None:
        self.taken += other.taken
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.changed.update(other.changed)


@dataclass
class Batch:
    """What one process made of a few records."""

    kept: list[Item]
    dropped: list[DroppedItem]
    bad: list[BadRecord]
    tallies: list[Tally]


def segments(tools: Sequence[Named], gates: Sequence[Gate | None], shape: Shape) -> list[Segment]:
    """The tools, cut behind each gate."""
    found: list[list[Named]] = [[]]
    for named, gate in zip(tools, gates, strict=True):
        found[-1].append(named)
        if gate is not None and named is not tools[-1]:
            found.append([])
    return [Segment(tuple(part), shape if part is found[-1] else "openai") for part in found]


def process(segment: Segment, records: Sequence[Record | Item]) -> Batch:
    """All tools of a segment on some records: what the processes are asked for."""
    work = _work(segment)
    batch = Batch([], [], [], [Tally() for _ in segment.tools])
    for record in records:
        if isinstance(record, Item):
            record = Record(record.origin, record.line)
        found = parse(record)
        if isinstance(found, BadRecord):
            batch.bad.append(found)
        else:
            _send(work, 0, record.origin, found, batch)
    return batch


@dataclass(frozen=True)
class _Work:
    """A segment's functions, ready in this process."""

    segment: Segment
    steps: list[Step]
    mark: Callable[[Conversation], bytes] | None
    part: Callable[[Conversation], str] | None


@cache
def _work(segment: Segment) -> _Work:
    tools = [named.tool for named in segment.tools]
    parts = [part for part in (tool.part() for tool in tools) if part is not None]
    mark = tools[-1].mark() if tools else None
    return _Work(segment, [tool.step() for tool in tools], mark, parts[-1] if parts else None)


def _send(work: _Work, place: int, origin: str, conversation: Conversation, batch: Batch) -> None:
    """One conversation through the steps from `place` on."""
    if place == len(work.steps):
        _finish(work, origin, conversation, batch)
        return
    tally = batch.tallies[place]
    tally.taken += 1
    for outcome in work.steps[place](conversation):
        match outcome:
            case Conversation():
                tally.kept += 1
                _send(work, place + 1, origin, outcome, batch)
            case Dropped():
                _drop(work, place, origin, outcome, batch)
            case Changed():
                tally.changed[outcome.what] += outcome.count


def _finish(work: _Work, origin: str, conversation: Conversation, batch: Batch) -> None:
    try:
        line = msgspec.json.encode(_RECORDS[work.segment.shape](conversation))
    except BadConversation as error:
        batch.tallies[-1].kept -= 1
        _drop(work, len(work.steps) - 1, origin, Dropped(conversation, str(error)), batch)
        return
    mark = work.mark(conversation) if work.mark else b""
    part = work.part(conversation) if work.part else ""
    batch.kept.append(Item(origin, line, mark, part))


def _drop(work: _Work, place: int, origin: str, dropped: Dropped, batch: Batch) -> None:
    batch.tallies[place].dropped[dropped.reason] += 1
    line = msgspec.json.encode(openai_record(dropped.conversation))
    name = work.segment.tools[place].name
    batch.dropped.append(DroppedItem(Item(origin, line), name, dropped.reason, dropped.detail))
