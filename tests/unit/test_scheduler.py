"""Which tokens of which rows a step computes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.engine.base import Sampling
from mesh.engine.transformers.scheduling.blocks import BlockManager, scope_digest
from mesh.engine.transformers.scheduling.scheduler import Limits, Scheduler
from mesh.engine.transformers.scheduling.sequence import Batch, Row, RowPhase, Work

PAGE = 4
_MOST = 1000


class Bench:
    """A scheduler whose forward is imagined: every sampled row gets the token 7."""

    def __init__(self, *, pages: int = 65, max_rows: int = 4, step_tokens: int = 8, chunks: bool = True) -> None:
        self.released: list[Row] = []
        self.blocks = BlockManager(pages, PAGE)
        self.scheduler = Scheduler(Limits(max_rows, step_tokens, chunks), self.blocks, self.released.append)
        self.works: list[Work] = []
        self.copies = 0

    def add(self, length: int, *, n: int = 1, credit: int | None = None, priority: int = 0, root: bool = False) -> Work:
        prompt = list(range(length))
        work = Work(len(self.works), len(self.works), Sampling(seed=0), prompt, priority=priority, credit=credit)
        work.root = scope_digest("test") if root else None
        work.rows = [Row(work, choice, prompt[:], _MOST, 0, frozenset()) for choice in range(n)]
        self.works.append(work)
        self.scheduler.add(work)
        return work

    def step(self) -> Batch:
        """Schedule, check what always holds, and advance the rows."""
        batch = self.scheduler.schedule()
        rows = batch.rows
        assert len(rows) == len(set(rows))
        assert len({row.slot for row in rows}) == len(rows)
        for row in rows:
            assert row.phase is RowPhase.RUNNING
        for row, count in [(row, 1) for row in batch.decode] + [(c.row, c.count) for c in batch.prefill]:
            assert 0 < count <= row.remaining
            assert row.computed + count <= len(row.pages) * PAGE
        sampled = batch.sampled
        copies = self.scheduler.take_copies()
        assert len({*copies, *copies.values()}) == len(copies) + len({*copies.values()})
        self.copies += len(copies)
        for row in batch.decode:
            row.computed += 1
        for chunk in batch.prefill:
            chunk.row.computed += chunk.count
        for row in rows:
            if row.work.root is not None:
                row.update_digests(PAGE, row.computed)
                for page, digest in zip(row.pages, row.digests[: row.computed // PAGE], strict=False):
                    self.blocks.register(page, digest)
            if row.work.leader is row and row.computed >= len(row.work.prompt):
                self.scheduler.share_prompt(row)
        for row in sampled:
            row.tokens.append(7)
        return batch


def shape(batch: Batch) -> tuple[list[int], list[tuple[int, int]]]:
    """Keys of the rows that decode, and (key, tokens) of the pieces of prompts."""
    return [row.work.key for row in batch.decode], [(chunk.row.work.key, chunk.count) for chunk in batch.prefill]


def test_decode_first_then_started_prompts_then_new_ones() -> None:
    bench = Bench(step_tokens=8)
    bench.add(3)
    bench.add(12)
    bench.add(2)
    assert shape(bench.step()) == ([], [(0, 3), (1, 5)])
    assert shape(bench.step()) == ([0], [(1, 7)])
    assert shape(bench.step()) == ([0, 1], [(2, 2)])
    assert shape(bench.step()) == ([0, 1, 2], [])


def test_no_more_rows_than_slots() -> None:
    bench = Bench(max_rows=2)
    works = [bench.add(2) for _ in range(3)]
    assert shape(bench.step()) == ([], [(0, 2), (1, 2)])
    assert bench.scheduler.waiting == 1
    bench.scheduler.finish(works[0].rows[0])
    assert shape(bench.step()) == ([1], [(2, 2)])


def test_priority_then_order_of_arrival() -> None:
    bench = Bench(max_rows=1, step_tokens=4)
    works = [bench.add(2, priority=1), bench.add(2), bench.add(2, priority=-1)]
    served: list[int] = []
    while not bench.scheduler.idle:
        (row,) = bench.step().rows
        served.append(row.work.key)
        bench.scheduler.finish(row)
    assert served == [works[2].key, works[1].key, works[0].key]


def test_the_first_in_line_is_not_overtaken_by_smaller_ones() -> None:
    bench = Bench(pages=11, step_tokens=64)
    bench.add(20)
    bench.add(24)
    bench.add(2)
    assert shape(bench.step()) == ([], [(0, 20)])
    assert shape(bench.step()) == ([0], [])


def test_the_youngest_gives_way_and_is_computed_again() -> None:
    bench = Bench(pages=7, step_tokens=32)
    old, young = bench.add(7), bench.add(7)
    bench.step()
    while bench.scheduler.counters.preemptions == 0:
        assert bench.step().decode[0].work is old
    row = young.rows[0]
    assert (row.phase, row.pages, row.computed) == (RowPhase.WAITING, [], 0)
    assert bench.released == [row]
    length = len(row.tokens)
    bench.scheduler.finish(old.rows[0])
    assert shape(bench.step()) == ([], [(young.key, length)])


def test_rows_without_credit_keep_their_pages_until_others_need_them() -> None:
    bench = Bench(pages=7, step_tokens=32)
    paused, other = bench.add(7, credit=1), bench.add(7)
    bench.step()
    assert shape(bench.step()) == ([other.key], [])
    assert bench.scheduler.paused == 1
    assert paused.rows[0].pages
    while bench.scheduler.counters.preemptions == 0:
        assert shape(bench.step()) == ([other.key], [])
    # The older one had to go, because it could not go on anyway, and comes back when it can.
    assert paused.rows[0].phase is RowPhase.PARKED
    bench.scheduler.finish(other.rows[0])
    bench.scheduler.grant(paused, 3)
    assert shape(bench.step()) == ([], [(paused.key, 8)])


def test_rows_without_credit_do_not_block_the_queue() -> None:
    bench = Bench(pages=7, max_rows=2, step_tokens=32)
    paused = [bench.add(7, credit=1) for _ in range(2)]
    bench.step()
    assert not bench.step()
    other = bench.add(15)
    assert shape(bench.step()) == ([], [(other.key, 15)])
    # The last one gave up its slot; the first could keep its own, as there are pages for both.
    assert [work.rows[0].phase for work in paused] == [RowPhase.RUNNING, RowPhase.PARKED]
    load = bench.scheduler.load(0)
    assert (load.running, load.paused, load.waiting) == (1, 2, 0)
    bench.scheduler.finish(paused[0].rows[0])
    assert bench.scheduler.load(0).paused == 1
    bench.scheduler.grant(paused[1], 1)
    assert bench.scheduler.load(0).waiting == 1


def test_a_row_that_gives_way_to_itself_keeps_its_credit() -> None:
    bench = Bench(pages=7, step_tokens=32)
    bench.add(5)
    young = bench.add(8, credit=7)
    bench.step()
    while young.rows[0].phase is RowPhase.RUNNING:
        bench.step()
    assert young.rows[0].phase is RowPhase.WAITING
    assert young.credit == 2


def test_credit_is_shared_by_the_choices() -> None:
    bench = Bench(step_tokens=32)
    work = bench.add(4, n=3, credit=4)
    assert len(bench.step().prefill) == 3
    assert len(bench.step().decode) == 1
    assert not bench.step()
    bench.scheduler.grant(work, 2)
    assert len(bench.step().decode) == 2


def test_a_prompt_without_credit_is_computed_up_to_its_last_token() -> None:
    bench = Bench(step_tokens=4)
    work = bench.add(10, credit=1)
    work.credit = 1
    assert shape(bench.step()) == ([], [(0, 4)])
    work.credit = 0
    assert shape(bench.step()) == ([], [(0, 4)])
    assert shape(bench.step()) == ([], [(0, 1)])
    assert not bench.step()
    bench.scheduler.grant(work, 1)
    assert shape(bench.step()) == ([0], [])


def test_choices_wait_for_the_first_to_compute_the_prompt() -> None:
    bench = Bench(step_tokens=8)
    work = bench.add(11, n=3, root=True)
    assert shape(bench.step()) == ([], [(0, 8)])
    assert [row.phase for row in work.rows[1:]] == [RowPhase.HELD] * 2
    assert shape(bench.step()) == ([], [(0, 3)])
    # Two full pages of the prompt are shared, the third is copied; its last token chooses the next one.
    assert shape(bench.step()) == ([0, 0, 0], [])
    assert bench.scheduler.counters.prefix_hit_tokens == 20
    assert bench.copies == 2
    assert len({row.pages[0] for row in work.rows}) == 1
    assert len({row.pages[2] for row in work.rows}) == 3


def test_held_choices_are_let_go_when_the_first_ends_early() -> None:
    bench = Bench(step_tokens=8)
    work = bench.add(30, n=2, root=True)
    bench.step()
    bench.scheduler.finish(work.rows[0])
    assert bench.step().prefill[0].row is work.rows[1]


def test_whole_prompts_where_pieces_are_impossible() -> None:
    bench = Bench(step_tokens=8, chunks=False)
    bench.add(30)
    bench.add(5)
    assert shape(bench.step()) == ([], [(0, 30)])
    assert shape(bench.step()) == ([0], [(1, 5)])


def test_restart_computes_everybody_again() -> None:
    bench = Bench(step_tokens=32)
    bench.add(5, root=True)
    bench.add(6, root=True)
    bench.step()
    bench.scheduler.restart()
    assert (bench.blocks.used, bench.blocks.cached, bench.scheduler.running) == (0, 0, 0)
    assert shape(bench.step()) == ([], [(0, 6), (1, 7)])


def test_load_counts_rows_and_tokens() -> None:
    bench = Bench(step_tokens=8, max_rows=2)
    bench.add(3)
    bench.add(12)
    bench.add(5)
    bench.step()
    load = bench.scheduler.load(9)
    assert (load.running, load.waiting, load.slots, load.steps) == (2, 1, 2, 9)
    # 8 tokens computed; of the second prompt 7 are missing, its last one counts as the next step's.
    assert (load.running_tokens, load.pending_tokens) == (8, 6 + 5)
    assert load.kv_used == pytest.approx(4 / 64)


def test_more_rows_than_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="step_tokens"):
        Scheduler(Limits(8, 4), BlockManager(9, 4))


_ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "step", "step", "finish", "grant"]), st.integers(1, 30), st.integers(1, 3)),
    max_size=80,
)


@given(_ACTIONS, st.booleans())
def test_whatever_happens_everybody_ends_and_nothing_leaks(actions: Sequence[tuple[str, int, int]], root: bool) -> None:
    bench = Bench(pages=13, max_rows=3, step_tokens=6)
    most = bench.blocks.total * PAGE
    live: list[Row] = []

    def end_full() -> None:
        for row in [row for row in live if len(row.tokens) >= most]:
            bench.scheduler.finish(row)
            live.remove(row)

    for action, number, n in actions:
        if action == "add":
            live += bench.add(number, n=n, root=root, credit=number if n == 2 else None).rows
        elif action == "step":
            bench.step()
            end_full()
        elif live and action == "finish":
            bench.scheduler.finish(live.pop(number % len(live)))
        elif live:
            bench.scheduler.grant(live[number % len(live)].work, n)
    for _ in range(3000):
        if not live:
            break
        for work in bench.works:
            bench.scheduler.grant(work, 1)
        bench.step()
        end_full()
    assert not live
    assert bench.scheduler.idle
    assert bench.blocks.used == 0
