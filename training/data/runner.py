"""Runs tools over a stream of records, in one process or several; the output is the same, in the order of the input."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Thread
from typing import Final

from rich.console import RenderableType

from training.data.segment import Batch, Named, Segment, Shape, Tally, process, segments
from training.data.tool import DroppedItem, Gate, Item
from training.reading import BadRecord, Record

_AHEAD: Final = 2
"""Batches for each process that are under way or done: enough to keep it busy, few enough to keep memory flat."""
_GROUP: Final = 256
"""Items of a batch behind a gate."""

_Batches = Iterable[Sequence[Record | Item]]
_Mapper = Callable[[Segment, _Batches], Iterator[Batch]]


class Run:
    """One pass of tools over records. Afterwards `tallies` tells what each of them did."""

    def __init__(
        self,
        tools: Sequence[Named],
        shape: Shape,
        on_bad: Callable[[BadRecord], None],
        on_dropped: Callable[[DroppedItem], None],
    ) -> None:
        """The two functions are called with each record that is no conversation, and with what a tool dropped."""
        self.tallies = [Tally() for _ in tools]
        self._gates = [named.tool.gate() for named in tools]
        self._segments = segments(tools, self._gates, shape)
        self._on_bad = on_bad
        self._on_dropped = on_dropped

    def kept(self, batches: Iterable[Sequence[Record]], processes: int) -> Iterator[Item]:
        """What gets through all tools, in the order of the records. Batches are taken as they are needed."""
        with _mapper(processes) as mapper:
            stream: _Batches = batches
            items: Iterator[Item] = iter(())
            end = 0
            for segment in self._segments:
                start, end = end, end + len(segment.tools)
                items = self._mapped(self.tallies[start:end], mapper(segment, stream))
                if gate := self._gates[end - 1]:
                    items = self._decided(segment.tools[-1].name, gate, self.tallies[end - 1], items)
                stream = _grouped(items)
            yield from items

    def conclusions(self) -> Iterator[RenderableType]:
        """What the tools have to tell afterwards."""
        for gate in self._gates:
            if gate is not None:
                yield from gate.conclusion()

    def _mapped(self, tallies: list[Tally], batches: Iterable[Batch]) -> Iterator[Item]:
        for batch in batches:
            for tally, more in zip(tallies, batch.tallies, strict=True):
                tally.add(more)
            for bad in batch.bad:
                self._on_bad(bad)
            for dropped in batch.dropped:
                self._on_dropped(dropped)
            yield from batch.kept

    def _decided(self, name: str, gate: Gate, tally: Tally, items: Iterator[Item]) -> Iterator[Item]:
        for word in gate.decide(items):
            if isinstance(word, Item):
                yield word
                continue
            tally.kept -= 1
            tally.dropped[word.reason] += 1
            self._on_dropped(DroppedItem(word.item, name, word.reason, word.detail))


@contextmanager
def _mapper(processes: int) -> Generator[_Mapper]:
    """What applies a segment to batches: here, or in as many processes, which all segments share."""
    if processes == 1:
        yield lambda segment, batches: (process(segment, batch) for batch in batches)
        return
    # Not forked: libraries that the processes load have threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_follow_the_first)
    try:
        yield lambda segment, batches: _ordered(pool, segment, batches, processes * _AHEAD)
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_the_first() -> None:
    """Ctrl-C reaches all processes of a terminal; the first ends the others. They end, too, if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_after_the_first, daemon=True).start()


def _end_after_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _ordered(pool: ProcessPoolExecutor, segment: Segment, batches: _Batches, ahead: int) -> Iterator[Batch]:
    """The batches, done, in their order; no more than `ahead` of them exist at a time."""
    under_way: deque[Future[Batch]] = deque()
    for batch in batches:
        under_way.append(pool.submit(process, segment, batch))
        if len(under_way) == ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _grouped(items: Iterator[Item]) -> Iterator[list[Item]]:
    while group := list(islice(items, _GROUP)):
        yield group
